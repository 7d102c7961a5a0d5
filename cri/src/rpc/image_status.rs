//! ImageStatus: from memory; the verbose part from the image's configuration. An image that is not there is an empty answer, not an
//! error.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::v1::{ImageStatusRequest, ImageStatusResponse};
use serde_json::json;

use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::{self, info::pruned};

pub(crate) async fn call(node: &Arc<Node>, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
    let name = request.image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::missing("image.image"));
    }
    let Some(image) = node.images.find(&name)? else { return Ok(ImageStatusResponse::default()) };
    let answer = Some(answer::image::image(&image, &node.config.image.pinned));
    if !request.verbose {
        return Ok(ImageStatusResponse { image: answer, info: BTreeMap::new() });
    }
    let id = image.id.clone();
    let info = match node.block(move |node| node.images.configuration(&id)).await {
        Ok((spec, chains)) => info(&spec, &chains),
        // It was removed meanwhile.
        Err(image::Error::NotFound { .. }) => return Ok(ImageStatusResponse::default()),
        Err(error) => return Err(error.into()),
    };
    Ok(ImageStatusResponse { image: answer, info })
}

/// The image's own configuration under containerd's keys, and every chain ID, the lowest first.
fn info(spec: &serde_json::Value, chains: &[String]) -> BTreeMap<String, String> {
    let info = json!({ "chainID": chains.last(), "chainIDs": chains, "imageSpec": pruned(spec) });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
