//! StopPodSandbox: removes everything that the kernel holds of a pod. Idempotent.

use std::sync::Arc;

use proto::v1::{StopPodSandboxRequest, StopPodSandboxResponse};

use crate::error::Error;
use crate::lifecycle::teardown::{self, Until};
use crate::state::node::Node;
use crate::state::record::PodPhase;

pub(crate) async fn call(node: &Arc<Node>, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Error> {
    let id = match node.store.find_pod(&request.pod_sandbox_id) {
        Ok(pod) => pod.id.clone(),
        Err(Error::NotFound { .. }) => return Ok(StopPodSandboxResponse {}),
        Err(error) => return Err(error),
    };
    let _lock = node.locks.lock_pod(&id).await;
    if node.store.pod(&id).is_some_and(|pod| pod.phase != PodPhase::Stopped) {
        node.block(move |node| teardown::pod(node, &id, Until::Stopped)).await?;
    }
    Ok(StopPodSandboxResponse {})
}
