//! Admin's ImportImages: imports the images of an archive that the client sends, all or none. If the client goes away or breaks off,
//! nothing stays.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use proto::admin::{ImportImagesRequest, ImportImagesResponse};
use tonic::{Request, Status};
use tracing::info;

use super::chunks;
use super::extensions::gone;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::image::admin_image;

pub(crate) async fn call<S>(node: &Arc<Node>, request: Request<S>) -> Result<ImportImagesResponse, Error>
where
    S: Stream<Item = Result<ImportImagesRequest, Status>> + Unpin,
{
    let gone = gone(&request);
    let mut messages = request.into_inner();
    let first = messages.next().await.transpose().map_err(|status| chunks::broken(&status))?.unwrap_or_default();
    let name = Some(first.name).filter(|name| !name.is_empty());
    let intake = async |archive| Ok(node.images.import(archive, name).await?);
    let imported = chunks::receive(messages, first.chunk, |message| message.chunk, gone, intake).await?;
    for image in &imported {
        info!(id = %image.id, names = ?image.repo_tags, "imported an image");
    }
    Ok(ImportImagesResponse { images: imported.iter().map(admin_image).collect() })
}
