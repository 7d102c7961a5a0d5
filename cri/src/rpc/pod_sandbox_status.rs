//! PodSandboxStatus: from memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};

use crate::error::Error;
use crate::state::clock::now;
use crate::state::node::Node;
use crate::translate::answer;

pub(crate) fn call(node: &Arc<Node>, request: &PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Error> {
    let pod = node.store.find_pod(&request.pod_sandbox_id)?;
    Ok(PodSandboxStatusResponse {
        status: Some(answer::pod::status(&pod)),
        info: if request.verbose { answer::info::pod(node, &pod) } else { BTreeMap::new() },
        containers_statuses: answer::pod::containers(node, &pod.id),
        timestamp: now(),
    })
}
