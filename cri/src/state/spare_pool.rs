//! The pods made ahead that no pod has taken yet, and how many are wanted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::PodId;
use tokio::sync::Notify;

/// The spares that are ready.
#[derive(Debug)]
pub(crate) struct SparePool {
    wanted: AtomicUsize,
    ready: Mutex<VecDeque<PodId>>,
    taken: Notify,
}

impl SparePool {
    /// None yet; so many are wanted.
    #[must_use]
    pub(crate) fn new(wanted: u32) -> Self {
        let wanted = AtomicUsize::new(wanted as usize);
        Self { wanted, ready: Mutex::default(), taken: Notify::new() }
    }

    /// Takes one that is ready. It has a record until the pod that it becomes is recorded. The next is made once somebody says
    /// [`SparePool::wake`].
    pub(crate) fn take(&self) -> Option<PodId> {
        self.lock().pop_front()
    }

    /// There is a pod network, or a pod that was waited for is made: whoever keeps the pool full looks again. Not earlier: what
    /// the kernel locks for a spare, a pod that somebody waits for would wait for too.
    pub(crate) fn wake(&self) {
        self.taken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<PodId>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one that was made.
    pub(crate) fn put(&self, id: PodId) {
        self.lock().push_back(id);
    }

    /// Ready once somebody says [`SparePool::wake`].
    pub(crate) async fn woken(&self) {
        self.taken.notified().await;
    }

    /// Whether any are wanted at all.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// None are wanted any more; those that are ready are the caller's to remove.
    pub(crate) fn close(&self) -> VecDeque<PodId> {
        self.wanted.store(0, Ordering::Release);
        std::mem::take(&mut *self.lock())
    }

    /// Whether fewer are ready than are wanted.
    pub(crate) fn is_short(&self) -> bool {
        self.lock().len() < self.wanted.load(Ordering::Acquire)
    }
}
