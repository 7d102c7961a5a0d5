//! Admin's ExportRoot: streams a snapshot of a container's root. The export ends when the client goes away.

use std::sync::Arc;

use proto::admin::{ExportRootRequest, ExportRootResponse};

use super::snapshot::check_exists;
use super::{Parts, chunks};
use crate::error::Error;
use crate::state::find;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: ExportRootRequest) -> Result<Parts<ExportRootResponse>, Error> {
    let id = find::container(&node.store, &request.container)?.id.clone();
    let (wanted, name) = (id.clone(), request.snapshot.clone());
    node.block(move |node| check_exists(node, &wanted, &request.snapshot)).await?;
    let message = |chunk| ExportRootResponse { chunk };
    Ok(chunks::send(node, message, move |node, to| node.images.export_root(&id, &name, to)))
}
