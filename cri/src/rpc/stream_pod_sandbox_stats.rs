//! StreamPodSandboxStats: ListPodSandboxStats in parts.

use std::sync::Arc;

use proto::v1::{StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse};

use super::{Parts, list_pod_sandbox_stats, split};
use crate::state::node::Node;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: StreamPodSandboxStatsRequest,
) -> Parts<StreamPodSandboxStatsResponse> {
    let stats = list_pod_sandbox_stats::stats(node, request.filter).await;
    split(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })
}
