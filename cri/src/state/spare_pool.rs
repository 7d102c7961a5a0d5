//! The spares that no pod has taken yet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::PodId;
use tokio::sync::Notify;

/// The spares that are ready, and how many are wanted.
#[derive(Debug)]
pub(crate) struct SparePool {
    wanted: AtomicUsize,
    ready: Mutex<VecDeque<PodId>>,
    taken: Notify,
}

impl SparePool {
    pub(crate) fn new(wanted: u32) -> Self {
        let wanted = AtomicUsize::new(wanted as usize);
        Self { wanted, ready: Mutex::default(), taken: Notify::new() }
    }

    /// Takes one that is ready. Its record stays until the pod that it becomes is recorded. [`SparePool::wake`] starts the refill.
    pub(crate) fn take(&self) -> Option<PodId> {
        self.lock().pop_front()
    }

    /// Starts a refill: there is a pod network now, or a pod has been created. A refill beside the creation of a pod would hold
    /// the pod up, since both take the kernel's locks.
    pub(crate) fn wake(&self) {
        self.taken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<PodId>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, id: PodId) {
        self.lock().push_back(id);
    }

    /// Waits for [`SparePool::wake`].
    pub(crate) async fn woken(&self) {
        self.taken.notified().await;
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// Closes the pool: no spares are wanted any more. The caller removes those that were ready.
    pub(crate) fn close(&self) -> VecDeque<PodId> {
        self.wanted.store(0, Ordering::Release);
        std::mem::take(&mut *self.lock())
    }

    pub(crate) fn is_short(&self) -> bool {
        self.lock().len() < self.wanted.load(Ordering::Acquire)
    }
}
