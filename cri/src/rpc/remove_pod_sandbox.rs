//! RemovePodSandbox: removes a pod and its containers, running or not. Idempotent.

use std::sync::Arc;

use proto::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};

use crate::error::Error;
use crate::lifecycle::teardown::{self, Until};
use crate::state::node::Node;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse, Error> {
    let id = match node.store.find_pod(&request.pod_sandbox_id) {
        Ok(pod) => pod.id.clone(),
        Err(Error::NotFound { .. }) => return Ok(RemovePodSandboxResponse {}),
        Err(error) => return Err(error),
    };
    let _lock = node.locks.lock_pod(&id).await;
    if node.store.pod(&id).is_some() {
        node.block(move |node| teardown::pod(node, &id, Until::Removed)).await?;
    }
    Ok(RemovePodSandboxResponse {})
}
