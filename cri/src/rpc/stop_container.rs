//! StopContainer: sends the stop signal, waits for the grace period, and kills. Idempotent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use host::ContainerId;
use proto::v1::{StopContainerRequest, StopContainerResponse};
use runtime::spec::Signal;
use tracing::debug;

use crate::error::Error;
use crate::lifecycle::exits;
use crate::lifecycle::teardown;
use crate::state::node::Node;
use crate::state::record::ContainerPhase;

/// Takes no lock: a second call with less time must not wait for the first.
pub(crate) async fn call(node: &Arc<Node>, request: StopContainerRequest) -> Result<StopContainerResponse, Error> {
    let container = match node.store.find_container(&request.container_id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(StopContainerResponse {}),
        Err(error) => return Err(error),
    };
    if !matches!(container.phase, ContainerPhase::Running { .. }) {
        return Ok(StopContainerResponse {});
    }
    let id = container.id.clone();
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    if !grace.is_zero() {
        let signal = container.made.as_ref().map_or_else(Signal::term, |made| made.stop_signal.clone());
        if signal_and_wait(node, &id, signal, grace).await? {
            return Ok(StopContainerResponse {});
        }
        debug!(container = id.short(), "it did not stop within {} s and is killed", grace.as_secs());
    }
    node.block(move |node| teardown::stop_container(node, &id)).await?;
    Ok(StopContainerResponse {})
}

/// Sends the signal and waits; true: the container ended in time.
async fn signal_and_wait(node: &Arc<Node>, id: &ContainerId, signal: Signal, grace: Duration) -> Result<bool, Error> {
    let target = id.clone();
    let sent = node.block(move |node| node.runtime.signal_container(&target, &signal)).await;
    match sent {
        // Already gone: the kill that follows records its exit.
        Err(runtime::Error::NotFound { .. }) => return Ok(false),
        other => other?,
    }
    Ok(exits::wait_for_end(node, id, Instant::now().checked_add(grace)).await)
}
