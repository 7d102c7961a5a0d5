//! RemoveContainer: removes a container, running or not. Idempotent.

use std::sync::Arc;

use proto::v1::{RemoveContainerRequest, RemoveContainerResponse};

use crate::error::Error;
use crate::lifecycle::teardown;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: RemoveContainerRequest) -> Result<RemoveContainerResponse, Error> {
    let container = match node.store.find_container(&request.container_id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(RemoveContainerResponse {}),
        Err(error) => return Err(error),
    };
    let _lock = node.locks.lock_container(&container.pod, &container.id).await;
    if node.store.container(&container.id).is_some() {
        node.block(move |node| teardown::container(node, &container.id)).await?;
    }
    Ok(RemoveContainerResponse {})
}
