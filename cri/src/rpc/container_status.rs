//! ContainerStatus: from memory; the verbose part also from the backend's files.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::v1::{ContainerStatusRequest, ContainerStatusResponse};
use tracing::debug;

use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer;

pub(crate) async fn call(node: &Arc<Node>, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    let status = Some(answer::container::status(node, &container));
    if !request.verbose {
        return Ok(ContainerStatusResponse { status, info: BTreeMap::new() });
    }
    let id = container.id.clone();
    let described = node.block(move |node| node.runtime.describe_container(&id)).await;
    // One that is not made yet, or was lost at a reboot, has none.
    let spec = described.inspect_err(|error| debug!("no spec to show: {}", host::chain(error))).ok();
    Ok(ContainerStatusResponse { status, info: answer::info::container(node, &container, spec) })
}
