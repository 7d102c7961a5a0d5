//! UpdateContainerResources: changes the resources of a container that is created or running.

use std::sync::Arc;

use host::ContainerId;
use proto::v1::{LinuxContainerResources, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};

use crate::error::Error;
use crate::state::node::Node;
use crate::state::record::ContainerPhase;
use crate::translate;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    if request.windows.is_some() {
        return Err(Error::Invalid { field: "windows".to_owned(), reason: "this is no Windows node".to_owned() });
    }
    let Some(wanted) = request.linux else { return Ok(UpdateContainerResourcesResponse {}) };
    let _lock = node.locks.lock_container(&container.pod, &container.id).await;
    node.block(move |node| update(node, &container.id, &wanted)).await?;
    Ok(UpdateContainerResourcesResponse {})
}

fn update(node: &Node, id: &ContainerId, wanted: &LinuxContainerResources) -> Result<(), Error> {
    let record = node.store.container(id).ok_or_else(|| Error::NotFound { what: format!("container {id}") })?;
    if !matches!(record.phase, ContainerPhase::Created | ContainerPhase::Running { .. }) {
        let state = crate::translate::answer::container::state(&record).as_str_name();
        return Err(Error::State { what: format!("container {} is in {state} state", id.short()) });
    }
    node.runtime.update_container(id, &translate::container_resources(Some(wanted))?)?;
    node.store.change_container(id, |record| merge(&mut record.resources.0, wanted))?;
    Ok(())
}

/// Fields that are set change and others stay, as in CRI and containerd.
pub(crate) fn merge(current: &mut LinuxContainerResources, wanted: &LinuxContainerResources) {
    fn set<T: PartialEq + Default + Clone>(current: &mut T, wanted: &T) {
        if *wanted != T::default() {
            *current = wanted.clone();
        }
    }
    set(&mut current.cpu_period, &wanted.cpu_period);
    set(&mut current.cpu_quota, &wanted.cpu_quota);
    set(&mut current.cpu_shares, &wanted.cpu_shares);
    set(&mut current.memory_limit_in_bytes, &wanted.memory_limit_in_bytes);
    set(&mut current.oom_score_adj, &wanted.oom_score_adj);
    set(&mut current.cpuset_cpus, &wanted.cpuset_cpus);
    set(&mut current.cpuset_mems, &wanted.cpuset_mems);
    set(&mut current.hugepage_limits, &wanted.hugepage_limits);
    set(&mut current.memory_swap_limit_in_bytes, &wanted.memory_swap_limit_in_bytes);
    current.unified.extend(wanted.unified.clone());
}
