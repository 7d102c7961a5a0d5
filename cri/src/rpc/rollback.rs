//! Admin's Rollback: resets the root of a container that does not run to a snapshot.

use std::sync::Arc;

use host::ContainerId;
use proto::admin::{RollbackRequest, RollbackResponse};
use runtime::ContainerState;

use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: RollbackRequest) -> Result<RollbackResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    // StartContainer takes this lock too, so the container does not start meanwhile.
    let _lock = node.locks.lock_container(&container.pod, &container.id).await;
    node.block(move |node| roll_back(node, &container.id, &request.name)).await?;
    Ok(RollbackResponse {})
}

fn roll_back(node: &Node, id: &ContainerId, name: &str) -> Result<(), Error> {
    match node.runtime.container_state(id) {
        Ok(ContainerState::Running(_)) => {
            return Err(Error::State { what: format!("container {} is running: stop it first", id.short()) });
        }
        Ok(_) | Err(runtime::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(node.images.rollback(id, name)?)
}
