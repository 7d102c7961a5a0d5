//! A lock for each blob and each chain that is being worked on, and the pins that keep the garbage collection from blobs and
//! chains that a pull has made and no image references yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The pause of a blocking thread between two attempts at a lock: short beside any unpacking.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Locks by name, and pins.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    named: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
    pins: Mutex<HashMap<String, usize>>,
}

impl Locks {
    /// Waits for the lock of a blob or a chain: a second pull then finds the work done.
    pub(crate) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.named(name).lock_owned().await
    }

    /// The same on a thread that may block. It polls, because tokio's blocking lock panics on a thread of the runtime: a call on
    /// the wrong thread should be slow, not fatal.
    pub(crate) fn blocking_lock(&self, name: &str) -> OwnedMutexGuard<()> {
        loop {
            match self.try_lock(name) {
                Some(guard) => return guard,
                None => std::thread::sleep(LOCK_PAUSE),
            }
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(&self, name: &str) -> Option<OwnedMutexGuard<()>> {
        self.named(name).try_lock_owned().ok()
    }

    /// Whether several pulls pin the name.
    pub(crate) fn shared(&self, name: &str) -> bool {
        hold(&self.pins).get(name).is_some_and(|count| *count > 1)
    }

    fn named(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut named = hold(&self.named);
        if let Some(lock) = named.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        named.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        named.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// Returns an empty set of pins, which keep their blobs and chains from being collected until it is dropped.
    pub(crate) fn pin(self: &Arc<Self>) -> Pins {
        Pins { locks: Arc::clone(self), names: Mutex::default() }
    }

    /// Whether a pull pins the name.
    pub(crate) fn pinned(&self, name: &str) -> bool {
        hold(&self.pins).contains_key(name)
    }
}

/// The pins of one pull.
#[derive(Debug)]
pub(crate) struct Pins {
    locks: Arc<Locks>,
    names: Mutex<Vec<String>>,
}

impl Pins {
    /// Adds a pin. Must be called before checking whether the blob or chain exists.
    pub(crate) fn add(&self, name: &str) {
        *hold(&self.locks.pins).entry(name.to_owned()).or_default() += 1;
        hold(&self.names).push(name.to_owned());
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = hold(&self.locks.pins);
        for name in hold(&self.names).drain(..) {
            let left = pins.get_mut(&name).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                pins.remove(&name);
            }
        }
    }
}

/// Takes a lock, also a poisoned one: no panic leaves these data half changed.
pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Locks, hold};

    #[tokio::test]
    async fn one_name_is_locked_once_and_others_are_free() {
        let locks = Locks::default();
        let first = locks.lock("a").await;
        assert!(locks.named("a").try_lock().is_err());
        drop(locks.lock("b").await);
        drop(first);
        drop(locks.lock("c").await);
        assert_eq!(hold(&locks.named).len(), 1, "locks that nobody holds are forgotten");
    }

    #[test]
    fn a_name_is_pinned_until_the_last_pin_is_gone() {
        let locks = Arc::new(Locks::default());
        let (one, two) = (locks.pin(), locks.pin());
        one.add("a");
        two.add("a");
        drop(one);
        assert!(locks.pinned("a"));
        drop(two);
        assert!(!locks.pinned("a"));
    }
}
