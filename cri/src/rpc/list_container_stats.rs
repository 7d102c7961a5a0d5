//! ListContainerStats: the usage of containers.

use std::sync::Arc;

use proto::v1::{
    ContainerFilter, ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse,
};

use super::{container_stats, limit, read_each};
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: ListContainerStatsRequest,
) -> Result<ListContainerStatsResponse, Error> {
    limit(ListContainerStatsResponse { stats: stats(node, request.filter).await }, "StreamContainerStats")
}

/// The stats of the containers that pass a filter, which may name ids by a prefix. Containers that do not run have disk usage only.
pub(crate) async fn stats(node: &Arc<Node>, filter: Option<ContainerStatsFilter>) -> Vec<ContainerStats> {
    let filter = filter.unwrap_or_default();
    let mut filter = ContainerFilter {
        id: filter.id,
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
        state: None,
    };
    if let Ok(container) = node.store.find_container(&filter.id) {
        filter.id = container.id.to_string();
    }
    if let Ok(pod) = node.store.find_pod(&filter.pod_sandbox_id) {
        filter.pod_sandbox_id = pod.id.to_string();
    }
    let mut containers = node.store.containers();
    containers.retain(|one| answer::container::passes(one, &filter));
    node.block(move |node| read_each(&containers, |one| container_stats::read(node, one).0)).await
}
