//! The locks on pods and containers. Run, Stop and Remove of a pod lock it exclusively; a change of one of its containers locks the
//! pod shared and the container exclusively, the pod first. Stopping a container takes no lock: it may take its whole grace period,
//! and everything that it calls is idempotent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use host::{ContainerId, PodId};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Forgotten locks are swept when the table has grown to this many, and again at each doubling.
const SWEEP_AT: usize = 1024;

/// The locks, made on first use.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    table: Mutex<HashMap<String, Weak<RwLock<()>>>>,
}

/// A shared lock on a pod with an exclusive one on one of its containers.
#[derive(Debug)]
pub(crate) struct ContainerLock {
    _pod: OwnedRwLockReadGuard<()>,
    _container: OwnedRwLockWriteGuard<()>,
}

impl Locks {
    /// Locks a pod exclusively.
    pub(crate) async fn lock_pod(&self, id: &PodId) -> OwnedRwLockWriteGuard<()> {
        self.lock("pod", id.as_str()).write_owned().await
    }

    /// Locks a pod together with others who change its containers.
    pub(crate) async fn lock_pod_shared(&self, id: &PodId) -> OwnedRwLockReadGuard<()> {
        self.lock("pod", id.as_str()).read_owned().await
    }

    /// Locks a container exclusively and its pod shared.
    pub(crate) async fn lock_container(&self, pod: &PodId, id: &ContainerId) -> ContainerLock {
        let pod = self.lock_pod_shared(pod).await;
        let container = self.lock("container", id.as_str()).write_owned().await;
        ContainerLock { _pod: pod, _container: container }
    }

    fn lock(&self, kind: &str, id: &str) -> Arc<RwLock<()>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= SWEEP_AT && table.len().is_power_of_two() {
            table.retain(|_, lock| lock.strong_count() > 0);
        }
        let key = format!("{kind}/{id}");
        if let Some(lock) = table.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(RwLock::new(()));
        table.insert(key, Arc::downgrade(&lock));
        lock
    }
}
