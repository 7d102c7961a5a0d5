//! The needs of the backends, as they were found last. Status answers from here: looking at them costs programs, system calls and
//! lists that grow with the pods, and kubelet asks every five seconds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use host::Need;
use tokio::sync::Notify;

/// How old an answer may be: three times the usual. Then whoever looks at them is stuck.
const STALE: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(crate) struct Needs {
    found: Mutex<Option<Arc<Found>>>,
    woken: Notify,
}

/// What was found at a time.
#[derive(Debug)]
pub(crate) struct Found {
    /// The needs of the runtime and the images.
    pub(crate) runtime: Vec<Need>,
    pub(crate) network: Vec<Need>,
    pub(crate) at: Instant,
}

impl Needs {
    /// Returns what was found last; None: nothing yet, or too long ago.
    pub(crate) fn latest(&self) -> Option<Arc<Found>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|found| found.at.elapsed() < STALE).cloned()
    }

    pub(crate) fn put(&self, found: Found) -> Arc<Found> {
        let found = Arc::new(found);
        let mut latest = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two that looked at the same time, the one that began later has seen more.
        if latest.as_ref().is_none_or(|latest| latest.at <= found.at) {
            *latest = Some(Arc::clone(&found));
        }
        found
    }

    /// Tells that something may have changed.
    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits for [`Needs::wake`], also one that came before.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Found, Needs, STALE};

    #[test]
    fn only_what_was_found_lately_is_told() {
        let needs = Needs::default();
        let found = |at| Found { runtime: Vec::new(), network: Vec::new(), at };
        assert!(needs.latest().is_none());
        let now = Instant::now();
        needs.put(found(now.checked_sub(STALE).unwrap()));
        assert!(needs.latest().is_none());
        needs.put(found(now));
        needs.put(found(now.checked_sub(STALE).unwrap()));
        assert_eq!(needs.latest().unwrap().at, now);
    }
}
