//! ImageStatus: from memory. An image that is not there is an empty answer, not an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::v1::{ImageStatusRequest, ImageStatusResponse};
use serde_json::json;

use super::list_images::item;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::info::pruned;

pub(crate) fn call(node: &Arc<Node>, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
    let name = request.image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::missing("image.image"));
    }
    let Some(image) = node.images.find(&name)? else { return Ok(ImageStatusResponse::default()) };
    let info = if request.verbose { info(&image) } else { BTreeMap::new() };
    Ok(ImageStatusResponse { image: Some(item(&image)), info })
}

/// The image's own configuration, under containerd's keys.
fn info(image: &image::Image) -> BTreeMap<String, String> {
    let config = &image.config;
    let spec = json!({
        "architecture": config.architecture,
        "os": config.os,
        "config": {
            "User": config.user,
            "Env": config.env,
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "WorkingDir": config.working_dir,
            "Labels": config.labels,
            "Volumes": config.volumes,
            "StopSignal": config.stop_signal,
        },
    });
    BTreeMap::from([("info".to_owned(), json!({ "imageSpec": pruned(&spec) }).to_string())])
}
