//! ListImages: from memory.

use std::sync::Arc;

use proto::v1::{Image, ImageFilter, ListImagesRequest, ListImagesResponse};

use super::limit;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::image::image;

pub(crate) fn call(node: &Arc<Node>, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
    limit(ListImagesResponse { images: items(node, request.filter)? }, "StreamImages")
}

/// The images that pass a filter: all, or the one that it names.
pub(crate) fn items(node: &Arc<Node>, filter: Option<ImageFilter>) -> Result<Vec<Image>, Error> {
    let item = |found: &image::Image| image(found, &node.config.image.pinned);
    let name = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Ok(node.images.list().iter().map(item).collect());
    }
    Ok(node.images.find(&name)?.iter().map(item).collect())
}
