//! StreamContainerStats: ListContainerStats in parts.

use std::sync::Arc;

use proto::v1::{StreamContainerStatsRequest, StreamContainerStatsResponse};

use super::{Parts, list_container_stats, split};
use crate::state::node::Node;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: StreamContainerStatsRequest,
) -> Parts<StreamContainerStatsResponse> {
    let stats = list_container_stats::stats(node, request.filter).await;
    split(stats, |container_stats| StreamContainerStatsResponse { container_stats })
}
