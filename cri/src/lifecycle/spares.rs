//! Pods made ahead, where the backend has a use for them: on FreeBSD a vnet and its epair are most of what a pod takes. They
//! are recorded before they are made, refilled in the background, taken by RunPodSandbox in the transaction that records the
//! pod, removed when the server stops, and swept when it starts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::PodId;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::error::Error;
use crate::lifecycle::teardown;
use crate::state::node::Node;
use crate::state::record::Change;

/// How long to wait after a spare could not be made: pods are made without one meanwhile.
const RETRY: Duration = Duration::from_secs(10);

/// How long after a pod was made the next spare is: its containers come first.
const REST: Duration = Duration::from_secs(1);

/// The spares that are ready.
#[derive(Debug)]
pub struct Spares {
    wanted: AtomicUsize,
    ready: Mutex<VecDeque<PodId>>,
    taken: Notify,
}

impl Spares {
    /// None yet; so many are wanted.
    #[must_use]
    pub fn new(wanted: u32) -> Self {
        let wanted = AtomicUsize::new(wanted as usize);
        Self { wanted, ready: Mutex::default(), taken: Notify::new() }
    }

    /// Takes one that is ready. It has a record until the pod that it becomes is recorded. The next is made once somebody says
    /// [`Spares::wake`].
    pub fn take(&self) -> Option<PodId> {
        self.lock().pop_front()
    }

    /// There is a pod network, or a pod that was waited for is made: whoever keeps the pool full looks again. Not earlier: what
    /// the kernel locks for a spare, a pod that somebody waits for would wait for too.
    pub fn wake(&self) {
        self.taken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<PodId>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_short(&self) -> bool {
        self.lock().len() < self.wanted.load(Ordering::Acquire)
    }
}

/// Keeps the pool full until the server stops.
pub async fn keep(node: Arc<Node>) {
    loop {
        // A spare's interface hangs on the bridge, which is there once there is a pod network.
        while !node.pod_networks().is_empty() && node.spares.is_short() {
            match node.block(|node| make(node)).await {
                Ok(()) => {}
                Err(error) => {
                    warn!("cannot make a spare pod: {}", host::chain(&error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        node.spares.taken.notified().await;
        tokio::time::sleep(REST).await;
    }
}

/// Makes one spare; where the backend has no use for any, none are wanted any more. Blocking.
fn make(node: &Node) -> Result<(), Error> {
    let id = node.store.new_pod_id();
    node.store.disk().apply(&[Change::PutSpare(&id)])?;
    let made = node.runtime.create_spare(&id).map_err(Error::from).and_then(|place| match place {
        Some(place) => node.network.prepare(&id, &place).map(|()| true).map_err(Error::from),
        None => Ok(false),
    });
    match made {
        Ok(true) => node.spares.lock().push_back(id.clone()),
        Ok(false) => {
            node.spares.wanted.store(0, Ordering::Release);
            teardown::spare(node, &id)?;
        }
        Err(error) => {
            give_back(node, &id);
            return Err(error);
        }
    }
    // The server may have begun to stop meanwhile: nobody would take this one.
    if node.spares.wanted.load(Ordering::Acquire) == 0 { remove_all(node) } else { Ok(()) }
}

/// Removes a spare that could not be used. What is left of it is swept at the next start. Blocking.
pub fn give_back(node: &Node, id: &PodId) {
    if let Err(error) = teardown::spare(node, id) {
        warn!(spare = id.short(), "cannot remove it: {}", host::chain(&error));
    }
}

/// Removes all spares and makes no more: the server stops. Blocking.
///
/// # Errors
/// All that went wrong; the next start sweeps what is left.
pub fn remove_all(node: &Node) -> Result<(), Error> {
    node.spares.wanted.store(0, Ordering::Release);
    let spares = std::mem::take(&mut *node.spares.lock());
    if !spares.is_empty() {
        info!("removing {} spare pods", spares.len());
    }
    let mut attempts = crate::error::Attempts::default();
    for spare in &spares {
        attempts.note(teardown::spare(node, spare));
    }
    attempts.finish(|| "cannot remove the spare pods".to_owned())
}
