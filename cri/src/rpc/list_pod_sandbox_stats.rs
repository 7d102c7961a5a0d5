//! ListPodSandboxStats: the usage of ready pods.

use std::sync::Arc;

use proto::v1::{
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxFilter, PodSandboxStats, PodSandboxStatsFilter,
};

use super::{limit, pod_sandbox_stats, read_each};
use crate::error::Error;
use crate::state::node::Node;
use crate::state::record::PodPhase;
use crate::translate::answer;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: ListPodSandboxStatsRequest,
) -> Result<ListPodSandboxStatsResponse, Error> {
    limit(ListPodSandboxStatsResponse { stats: stats(node, request.filter).await }, "StreamPodSandboxStats")
}

/// The stats of the ready pods that pass a filter, which may name an id by a prefix.
pub(crate) async fn stats(node: &Arc<Node>, filter: Option<PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
    let filter = filter.unwrap_or_default();
    let mut filter = PodSandboxFilter { id: filter.id, label_selector: filter.label_selector, state: None };
    if let Ok(pod) = node.store.find_pod(&filter.id) {
        filter.id = pod.id.to_string();
    }
    let mut pods = node.store.pods();
    pods.retain(|pod| pod.phase == PodPhase::Ready && answer::pod::passes(pod, &filter));
    node.block(move |node| {
        // One list of the interfaces, not one look-up for each pod.
        let counters = node.network.all_counters().unwrap_or_default();
        read_each(&pods, |pod| pod_sandbox_stats::of(node, pod, counters.get(&pod.id)))
    })
    .await
}
