//! Keeps the node's network as it was made. Administrators, other programs and time change it behind the server's back: an address
//! goes, a bridge, a ruleset. The kernel tells of changes of interfaces, addresses and routes; it tells nobody of a flushed
//! ruleset, so the network is also checked every few seconds. Missing parts are restored, logged and counted.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tracing::{error, info, warn};

use crate::error::Error;
use crate::lifecycle::exits;
use crate::state::node::Node;
use crate::state::record::PodPhase;

/// The longest time between two looks: with the repair itself, at most five seconds from the damage.
const PERIOD: Duration = Duration::from_secs(3);
/// After news: changes come in crowds, and each pod that comes or goes brings some.
const SETTLE: Duration = Duration::from_millis(500);

/// Looks after the network until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    let changes = match subscribe(&node).await {
        Ok(changes) => Some(changes),
        Err(error) => {
            warn!("changes of the network are seen late: {}", host::chain(&error));
            None
        }
    };
    loop {
        let _ = tokio::time::timeout(PERIOD, wait(&node, changes.as_ref())).await;
        node.tend(|node| reconcile(node)).await;
    }
}

async fn subscribe(node: &Arc<Node>) -> Result<AsyncFd<File>, Error> {
    let descriptor = node.tend(|node| node.network.changes()).await?;
    let changes = exits::make_awaitable(descriptor);
    Ok(changes.map_err(network::Error::failed("cannot wait for changes of the network"))?)
}

/// Waits for news and until no more are queued.
async fn wait(node: &Node, changes: Option<&AsyncFd<File>>) {
    let Some(changes) = changes else { return std::future::pending().await };
    // An error of the descriptor is not news: the clock goes on.
    let Ok(mut ready) = changes.readable().await else { return std::future::pending().await };
    // Status tells the damage before it is repaired.
    node.needs.wake();
    tokio::time::sleep(SETTLE).await;
    let mut buffer = [0; 16 << 10];
    loop {
        match changes.get_ref().read(&mut buffer) {
            // Lost messages (ENOBUFS) are news too.
            Ok(1..) => (),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            _ => return std::future::pending().await,
        }
    }
    ready.clear_ready();
}

/// Restores missing shared parts, and missing routes, rules and own filters of the ready pods. Blocking.
fn reconcile(node: &Node) {
    // What the start could not make is made now.
    let outcome = node.configure_network().and_then(|()| {
        let mut ready = node.store.pods();
        ready.retain(|pod| pod.phase == PodPhase::Ready);
        let mut restored = node.network.reconcile(&ready.iter().map(|pod| pod.id.clone()).collect::<Vec<_>>())?;
        let mut failures = host::Failures::<runtime::Error>::default();
        for pod in ready.iter().filter(|pod| pod.spec.filter.is_some()) {
            let loaded = match node.runtime.load_filter(&pod.id) {
                // It was removed meanwhile.
                Err(runtime::Error::NotFound { .. }) => continue,
                loaded => failures.keep(loaded),
            };
            restored.extend(loaded.filter(|loaded| *loaded).map(|_| format!("the own pf of pod {}", pod.id.short())));
        }
        failures.result(runtime::Error::failed("cannot restore the own pf of pods"))?;
        Ok(restored)
    });
    let was_broken = node.network_repairs().failure.is_some();
    if was_broken || !matches!(&outcome, Ok(restored) if restored.is_empty()) {
        node.needs.wake();
    }
    match outcome {
        Ok(restored) => {
            if !restored.is_empty() {
                warn!("the network had lost, and has again: {}", restored.join(", "));
            } else if was_broken {
                info!("the network is whole again");
            }
            node.network_repairs().succeed(restored);
        }
        Err(failed) => {
            let failed = host::chain(&failed);
            // One error, not one every few seconds.
            if !was_broken {
                error!("the network is broken: {failed}");
            }
            node.network_repairs().failure = Some(failed);
        }
    }
}
