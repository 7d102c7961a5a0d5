//! Admin's ListSnapshots: the snapshots of a container's root, oldest first.

use std::sync::Arc;

use proto::admin::{ListSnapshotsRequest, ListSnapshotsResponse};

use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    let names = node.block(move |node| node.images.snapshots(&container.id)).await?;
    Ok(ListSnapshotsResponse { names })
}
