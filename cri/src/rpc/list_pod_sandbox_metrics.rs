//! ListPodSandboxMetrics: what pods and containers use, as metrics with labels.

use std::sync::Arc;

use proto::v1::{ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, PodSandboxMetrics};

use super::whole;
use crate::error::Error;
use crate::rpc::metrics;
use crate::state::node::Node;
use crate::state::record::PodPhase;

/// Answers.
pub async fn call(
    node: &Arc<Node>,
    _request: ListPodSandboxMetricsRequest,
) -> Result<ListPodSandboxMetricsResponse, Error> {
    whole(ListPodSandboxMetricsResponse { pod_metrics: metrics(node).await }, "StreamPodSandboxMetrics")
}

/// The metrics of all ready pods.
pub async fn metrics(node: &Arc<Node>) -> Vec<PodSandboxMetrics> {
    let mut pods = node.store.pods();
    pods.retain(|pod| pod.phase == PodPhase::Ready);
    node.block(move |node| pods.iter().map(|pod| metrics::of(node, pod)).collect()).await
}
