//! StreamPodSandboxes: ListPodSandbox in parts.

use std::sync::Arc;

use proto::v1::{StreamPodSandboxesRequest, StreamPodSandboxesResponse};

use super::{Parts, list_pod_sandbox, split};
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: StreamPodSandboxesRequest) -> Parts<StreamPodSandboxesResponse> {
    let pods = list_pod_sandbox::items(node, request.filter);
    split(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })
}
