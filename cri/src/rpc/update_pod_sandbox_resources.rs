//! UpdatePodSandboxResources: changes the resources that the containers of a pod share.

use std::sync::Arc;

use host::PodId;
use proto::v1::{
    LinuxContainerResources, LinuxPodSandboxConfig, UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse,
};

use crate::error::Error;
use crate::state::node::Node;
use crate::state::record::PodPhase;
use crate::translate;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse, Error> {
    let pod = node.store.find_pod(&request.pod_sandbox_id)?;
    let _lock = node.locks.lock_pod(&pod.id).await;
    node.block(move |node| update(node, &pod.id, request.resources, request.overhead)).await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}

fn update(
    node: &Node,
    id: &PodId,
    resources: Option<LinuxContainerResources>,
    overhead: Option<LinuxContainerResources>,
) -> Result<(), Error> {
    if node.store.pod(id).is_none_or(|pod| pod.phase != PodPhase::Ready) {
        return Err(Error::State { what: format!("sandbox {} is not ready", id.short()) });
    }
    let linux = LinuxPodSandboxConfig { resources: resources.clone(), ..LinuxPodSandboxConfig::default() };
    node.runtime.update_pod(id, &translate::pod_resources(&linux)?)?;
    node.store.change_pod(id, |pod| {
        let linux = pod.config.0.linux.get_or_insert_default();
        if let Some(resources) = &resources {
            super::update_container_resources::merge(linux.resources.get_or_insert_default(), resources);
        }
        if let Some(overhead) = &overhead {
            super::update_container_resources::merge(linux.overhead.get_or_insert_default(), overhead);
        }
    })?;
    Ok(())
}
