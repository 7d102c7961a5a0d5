//! Spares: pods created ahead on backends that can use them. On FreeBSD a vnet and its epair take most of a pod's creation. A spare
//! is recorded before it is created, taken by RunPodSandbox in the transaction that records the pod, replaced in the background,
//! removed when the server stops, and swept when it starts.

use std::sync::Arc;
use std::time::Duration;

use host::{Failures, PodId};
use tracing::{info, warn};

use crate::error::Error;
use crate::lifecycle::teardown;
use crate::state::node::Node;
use crate::state::record::Change;

/// The pause after a failure; meanwhile pods are created without a spare.
const RETRY: Duration = Duration::from_secs(10);

/// The pause between a pod's creation and the next spare's: the pod's containers come first.
const REST: Duration = Duration::from_secs(1);

/// Keeps the pool full until the server stops.
pub(crate) async fn refill(node: Arc<Node>) {
    loop {
        // A spare's interface is a member of the bridge, which exists once there is a pod network.
        while !node.pod_networks().is_empty() && node.spares.is_short() {
            match node.tend(|node| make(node)).await {
                Ok(()) => {}
                Err(error) => {
                    warn!("cannot create a spare pod: {}", host::chain(&error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        node.spares.woken().await;
        tokio::time::sleep(REST).await;
    }
}

/// Creates one spare, or closes the pool if the backend has no use for spares. Blocking.
fn make(node: &Node) -> Result<(), Error> {
    let id = node.store.new_pod_id();
    node.store.disk().apply(&[Change::PutSpare(&id)])?;
    let made = node.runtime.create_spare(&id).map_err(Error::from).and_then(|place| match place {
        Some(place) => node.network.prepare(&id, &place).map(|()| true).map_err(Error::from),
        None => Ok(false),
    });
    match made {
        Ok(true) => node.spares.put(id),
        Ok(false) => {
            teardown::spare(node, &id)?;
            return remove_all(node);
        }
        Err(error) => {
            discard(node, &id);
            return Err(error);
        }
    }
    // The server may have begun to stop meanwhile.
    if node.spares.is_wanted() { Ok(()) } else { remove_all(node) }
}

/// Removes a spare that could not be used. The next start sweeps the rest. Blocking.
pub(crate) fn discard(node: &Node, id: &PodId) {
    if let Err(error) = teardown::spare(node, id) {
        warn!(spare = id.short(), "cannot remove it: {}", host::chain(&error));
    }
}

/// Removes all spares and creates no more, because the server stops. Reports all errors; the next start sweeps the rest.
/// Blocking.
pub(crate) fn remove_all(node: &Node) -> Result<(), Error> {
    let spares = node.spares.close();
    if !spares.is_empty() {
        info!("removing {} spare pods", spares.len());
    }
    let mut failures = Failures::<Error>::default();
    for spare in &spares {
        failures.keep(teardown::spare(node, spare));
    }
    failures.result(Error::several("cannot remove the spare pods".to_owned()))
}
