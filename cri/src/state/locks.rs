//! Who may change a pod or a container now. Run, Stop and Remove of a pod have it for themselves; what happens to one of its
//! containers shares the pod with the others and has the container for itself. Always the pod first. Stopping a container
//! takes no lock at all: it may take as long as its grace period, and everything that it calls may be called twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use host::{ContainerId, PodId};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Forgotten locks are swept when the table has grown to this many, and again at each doubling.
const SWEEP_AT: usize = 1024;

/// The locks, made when they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    table: Mutex<HashMap<String, Weak<RwLock<()>>>>,
}

/// A pod, and one of its containers, for a change of the container.
#[derive(Debug)]
pub(crate) struct ContainerLock {
    _pod: OwnedRwLockReadGuard<()>,
    _container: OwnedRwLockWriteGuard<()>,
}

impl Locks {
    /// The pod for oneself.
    pub(crate) async fn lock_pod(&self, id: &PodId) -> OwnedRwLockWriteGuard<()> {
        self.lock("pod", id.as_str()).write_owned().await
    }

    /// The pod together with others who change its containers.
    pub(crate) async fn lock_pod_shared(&self, id: &PodId) -> OwnedRwLockReadGuard<()> {
        self.lock("pod", id.as_str()).read_owned().await
    }

    /// A container for oneself, in its pod.
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
