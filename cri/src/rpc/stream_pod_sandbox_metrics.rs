//! StreamPodSandboxMetrics: ListPodSandboxMetrics in parts.

use std::sync::Arc;

use proto::v1::StreamPodSandboxMetricsResponse;

use super::{Parts, list_pod_sandbox_metrics, split};
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>) -> Parts<StreamPodSandboxMetricsResponse> {
    let metrics = list_pod_sandbox_metrics::all(node).await;
    split(metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics })
}
