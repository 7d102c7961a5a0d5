//! Admin's Snapshot: snapshots the root of a container, running or not, or those of all containers of a pod in one transaction.

use std::sync::Arc;

use host::ContainerId;
use proto::admin::{SnapshotRequest, SnapshotResponse};

use crate::error::Error;
use crate::state::find::{self, Target};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord};

pub(crate) async fn call(node: &Arc<Node>, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
    let target = find::target(&node.store, &request.target)?;
    let _lock = lock(node, &target).await;
    let ids = ids(&containers(node, &target)?);
    let all = ids.clone();
    node.block(move |node| node.images.snapshot(&all, &request.name)).await?;
    Ok(SnapshotResponse { containers: ids.iter().map(ToString::to_string).collect() })
}

/// Keeps a pod from getting or losing containers, or a container from being started or removed.
pub(super) async fn lock(node: &Node, target: &Target) -> impl Send + use<> {
    match target {
        Target::Pod(pod) => (Some(node.locks.lock_pod(&pod.id).await), None),
        Target::Container(one) => (None, Some(node.locks.lock_container(&one.pod, &one.id).await)),
    }
}

/// The containers that have a root, in the order in which they were made.
pub(super) fn containers(node: &Node, target: &Target) -> Result<Vec<Arc<ContainerRecord>>, Error> {
    let pod = match target {
        Target::Container(one) => return Ok(vec![one.clone()]),
        Target::Pod(pod) => pod,
    };
    let mut all = node.store.containers_of(&pod.id);
    all.retain(|one| !matches!(one.phase, ContainerPhase::Creating | ContainerPhase::Removing(_)));
    all.sort_by_key(|one| one.created_at);
    if all.is_empty() {
        return Err(Error::State { what: format!("pod {} has no containers", pod.id.short()) });
    }
    Ok(all)
}

/// Refuses a snapshot that a container does not have. Blocking.
pub(super) fn check_exists(node: &Node, id: &ContainerId, name: &str) -> Result<(), Error> {
    if node.images.snapshots(id)?.iter().any(|one| one.name == name) {
        return Ok(());
    }
    Err(Error::NotFound { what: format!("snapshot {name:?} of container {}", id.short()) })
}

pub(super) fn ids(containers: &[Arc<ContainerRecord>]) -> Vec<ContainerId> {
    containers.iter().map(|one| one.id.clone()).collect()
}
