//! RemoveImage: with all its tags. Not there: done already.

use std::sync::Arc;

use proto::v1::{RemoveImageRequest, RemoveImageResponse};

use crate::error::Error;
use crate::state::node::Node;

/// Removes it.
pub(crate) async fn call(node: &Arc<Node>, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
    let name = request.image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::missing("image.image"));
    }
    node.block(move |node| node.images.remove(&name)).await?;
    Ok(RemoveImageResponse {})
}
