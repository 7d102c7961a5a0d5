//! Admin's Rollback: resets the roots of containers that do not run to a snapshot, one after the other. ZFS has no transaction for it:
//! what can be refused is refused before the first, and a repeated call does all of them again, which changes none that is done.

use std::sync::Arc;

use host::ContainerId;
use proto::admin::{RollbackRequest, RollbackResponse};
use runtime::ContainerState;

use super::snapshot::{check_exists, containers, ids, lock};
use crate::error::{Backend, Error};
use crate::state::find;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: RollbackRequest) -> Result<RollbackResponse, Error> {
    let target = find::target(&node.store, &request.target)?;
    // StartContainer takes this lock too, so no container starts meanwhile.
    let _lock = lock(node, &target).await;
    let ids = ids(&containers(node, &target)?);
    let all = ids.clone();
    node.block(move |node| roll_back(node, &all, &request.name)).await?;
    Ok(RollbackResponse { containers: ids.iter().map(ToString::to_string).collect() })
}

fn roll_back(node: &Node, ids: &[ContainerId], name: &str) -> Result<(), Error> {
    for id in ids {
        check_stopped(node, id)?;
    }
    for id in ids {
        check_exists(node, id, name)?;
    }
    for (done, id) in ids.iter().enumerate() {
        node.images.rollback(id, name).map_err(|error| told(error.into(), ids, done))?;
    }
    Ok(())
}

fn check_stopped(node: &Node, id: &ContainerId) -> Result<(), Error> {
    match node.runtime.container_state(id) {
        Ok(ContainerState::Running(_)) => {
            Err(Error::State { what: format!("container {} is running: stop it first", id.short()) })
        }
        Ok(_) | Err(runtime::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Says of a pod how far it came.
fn told(error: Error, ids: &[ContainerId], done: usize) -> Error {
    if ids.len() == 1 {
        return error;
    }
    let (all, id) = (ids.len(), ids[done].short());
    let operation = format!("{done} of {all} containers are rolled back, {id} is not; roll back again to go on");
    Error::Backend(Backend::Host { operation, source: std::io::Error::other(error) })
}
