//! Admin's ListSnapshots: the snapshots of the roots of a container or of a pod's containers, with their sizes.

use std::sync::Arc;

use proto::admin::{ContainerSnapshot, ListSnapshotsRequest, ListSnapshotsResponse};

use super::snapshot::containers;
use crate::error::Error;
use crate::state::find;
use crate::state::names;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Error> {
    let containers = containers(node, &find::target(&node.store, &request.target)?)?;
    node.block(move |node| {
        let mut snapshots = Vec::new();
        for container in containers {
            let name = names::own(container.config.metadata.as_ref());
            let found = node.images.snapshots(&container.id)?.into_iter();
            snapshots.extend(found.map(|one| ContainerSnapshot {
                container_id: container.id.to_string(),
                container: name.to_owned(),
                name: one.name,
                used: one.used,
                referenced: one.referenced,
                created: one.created,
            }));
        }
        Ok(ListSnapshotsResponse { snapshots })
    })
    .await
}
