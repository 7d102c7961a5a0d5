//! ListImages: from memory.

use std::sync::Arc;

use proto::v1::{Image, ImageFilter, Int64Value, ListImagesRequest, ListImagesResponse};

use super::limit;
use crate::error::Error;
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
    limit(ListImagesResponse { images: items(node, request.filter)? }, "StreamImages")
}

/// The images that pass a filter: all, or the one that it names.
pub(crate) fn items(node: &Arc<Node>, filter: Option<ImageFilter>) -> Result<Vec<Image>, Error> {
    let name = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Ok(node.images.list().iter().map(item).collect());
    }
    Ok(node.images.find(&name)?.iter().map(item).collect())
}

/// CRI has a user either by number or by name; of `user:group` only the user.
pub(crate) fn item(image: &image::Image) -> Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() { None } else { user.parse().ok() };
    Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid: uid.map(|value| Int64Value { value }),
        spec: None,
        pinned: false,
    }
}
