//! RemoveImage: removes an image with all its tags. Idempotent.

use std::sync::Arc;

use proto::v1::{RemoveImageRequest, RemoveImageResponse};

use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
    let name = request.image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::missing("image.image"));
    }
    node.block(move |node| node.images.remove(&name)).await?;
    Ok(RemoveImageResponse {})
}
