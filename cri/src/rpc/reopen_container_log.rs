//! ReopenContainerLog: opens a new log file after kubelet has renamed the old one.

use std::sync::Arc;

use proto::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};

use super::find_running;
use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse, Error> {
    let container = find_running(node, &request.container_id)?;
    node.block(move |node| node.runtime.reopen_log(&container.id)).await?;
    Ok(ReopenContainerLogResponse {})
}
