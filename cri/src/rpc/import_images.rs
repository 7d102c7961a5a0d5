//! Admin's ImportImages: imports the images of an archive that the client sends, all or none. If the client goes away or breaks off,
//! nothing stays.

use std::sync::Arc;

use futures::Stream;
use proto::admin::{ImportImagesRequest, ImportImagesResponse};
use tonic::{Request, Status};
use tracing::info;

use super::chunks;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::image::admin_image;

pub(crate) async fn call<S>(node: &Arc<Node>, request: Request<S>) -> Result<ImportImagesResponse, Error>
where
    S: Stream<Item = Result<ImportImagesRequest, Status>> + Unpin,
{
    let intake = async |name: String, archive| {
        Ok(node.images.import(archive, Some(name).filter(|name| !name.is_empty())).await?)
    };
    let imported = chunks::receive(request, |message| (message.name, message.chunk), intake).await?;
    for image in &imported {
        info!(id = %image.id, names = ?image.repo_tags, "imported an image");
    }
    Ok(ImportImagesResponse { images: imported.iter().map(admin_image).collect() })
}
