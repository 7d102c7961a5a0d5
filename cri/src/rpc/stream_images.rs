//! StreamImages: ListImages in parts.

use std::sync::Arc;

use proto::v1::{StreamImagesRequest, StreamImagesResponse};

use super::{Parts, list_images, split};
use crate::error::Error;
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: StreamImagesRequest) -> Result<Parts<StreamImagesResponse>, Error> {
    let images = list_images::items(node, request.filter)?;
    Ok(split(images, |images| StreamImagesResponse { images }))
}
