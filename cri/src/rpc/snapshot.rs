//! Admin's Snapshot: snapshots a container's root, running or not.

use std::sync::Arc;

use proto::admin::{SnapshotRequest, SnapshotResponse};

use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    let _lock = node.locks.lock_container(&container.pod, &container.id).await;
    node.block(move |node| node.images.snapshot(&container.id, &request.name)).await?;
    Ok(SnapshotResponse {})
}
