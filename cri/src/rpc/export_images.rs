//! Admin's ExportImages: streams images as one archive. The export ends when the client goes away.

use std::sync::Arc;

use proto::admin::{ExportImagesRequest, ExportImagesResponse};

use super::{Parts, chunks};
use crate::error::Error;
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: ExportImagesRequest) -> Result<Parts<ExportImagesResponse>, Error> {
    if request.images.is_empty() {
        return Err(Error::missing("images"));
    }
    for name in &request.images {
        node.images.find(name)?.ok_or_else(|| Error::NotFound { what: format!("image {name:?}") })?;
    }
    let message = |chunk| ExportImagesResponse { chunk };
    Ok(chunks::send(node, message, move |node, to| node.images.export(&request.images, to)))
}
