//! A lock for each blob and each chain that is being worked on, and the pins that keep the garbage collection from blobs and
//! chains that a pull has made and no image references yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The pause of a blocking thread between two attempts at a lock: short beside any unpacking.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Locks by name, and pins.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    named: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
    pinned: Mutex<Pinned>,
}

#[derive(Debug, Default)]
struct Pinned {
    /// How many pin each name.
    pins: HashMap<String, usize>,
    /// What a collection is about to remove. Nobody pinned it when that began.
    going: HashSet<String>,
    /// What a collection passed over because it was pinned.
    missed: HashSet<String>,
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
        hold(&self.pinned).pins.get(name).is_some_and(|count| *count > 1)
    }

    /// Begins a removal by the garbage collection.
    pub(crate) fn removal(&self, name: &str) -> Attempt<'_> {
        match self.begin_removal(name) {
            // Who works on it holds its lock and a pin, and lets go of the lock first: then the second attempt gets it.
            Attempt::Busy => self.begin_removal(name),
            attempt => attempt,
        }
    }

    fn begin_removal(&self, name: &str) -> Attempt<'_> {
        let lock = self.try_lock(name);
        let mut pinned = hold(&self.pinned);
        if pinned.pins.contains_key(name) {
            pinned.missed.insert(name.to_owned());
            return Attempt::Pinned;
        }
        let Some(lock) = lock else { return Attempt::Busy };
        pinned.going.insert(name.to_owned());
        Attempt::Begun(Removal { locks: self, name: name.to_owned(), _lock: lock })
    }

    /// Whether a collection is about to remove this, although it may still be there. Ask after pinning it: if not, it stays; if so,
    /// take the lock and make it anew.
    pub(crate) fn is_going(&self, name: &str) -> bool {
        hold(&self.pinned).going.contains(name)
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

    /// Returns an empty set of pins, which keep their blobs and chains from being collected until they are released.
    pub(crate) fn pin(self: &Arc<Self>) -> Pins {
        Pins { locks: Arc::clone(self), names: Mutex::default() }
    }
}

/// What comes of the wish to remove something.
#[derive(Debug)]
pub(crate) enum Attempt<'a> {
    /// Nobody needs it while this is held.
    Begun(Removal<'a>),
    /// Somebody pins it. It stays, and [`Pins::release`] tells whoever lets it go last.
    Pinned,
    /// Another collection removes it, or finds that it cannot.
    Busy,
}

/// A removal by the garbage collection: the lock of what is removed.
#[derive(Debug)]
pub(crate) struct Removal<'a> {
    locks: &'a Locks,
    name: String,
    _lock: OwnedMutexGuard<()>,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        hold(&self.locks.pinned).going.remove(&self.name);
    }
}

/// The pins of one pull.
#[derive(Debug)]
pub(crate) struct Pins {
    locks: Arc<Locks>,
    names: Mutex<Vec<String>>,
}

impl Pins {
    /// Adds a pin. Must be called before [`Locks::is_going`] and a look whether the blob or chain exists.
    pub(crate) fn add(&self, name: &str) {
        *hold(&self.locks.pinned).pins.entry(name.to_owned()).or_default() += 1;
        hold(&self.names).push(name.to_owned());
    }

    /// Lets all go. Whether a collection has passed over something of it that nobody else pins.
    pub(crate) fn release(&self) -> bool {
        let Pinned { pins, missed, .. } = &mut *hold(&self.locks.pinned);
        let mut was_missed = false;
        for name in hold(&self.names).drain(..) {
            let left = pins.get_mut(&name).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                pins.remove(&name);
                was_missed |= missed.remove(&name);
            }
        }
        was_missed
    }
}

/// Takes a lock, also a poisoned one: no panic leaves these data half changed.
pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Attempt, Locks, hold};

    fn is_pinned(locks: &Locks) -> bool {
        matches!(locks.removal("a"), Attempt::Pinned)
    }

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
        let [one, two, other] = [(); 3].map(|()| locks.pin());
        one.add("a");
        two.add("a");
        other.add("b");
        assert!(is_pinned(&locks));
        assert!(!one.release() && is_pinned(&locks) && !other.release(), "they were not the last to pin it");
        assert!(two.release() && !two.release() && matches!(locks.removal("a"), Attempt::Begun(_)));
    }

    #[tokio::test]
    async fn who_pins_what_is_about_to_be_removed_hears_of_it() {
        let locks = Arc::new(Locks::default());
        let removal = locks.removal("a");
        assert!(matches!((&removal, locks.removal("a")), (Attempt::Begun(_), Attempt::Busy)));
        let pins = locks.pin();
        pins.add("a");
        assert!(locks.is_going("a") && locks.try_lock("a").is_none());
        drop(removal);
        assert!(!locks.is_going("a") && is_pinned(&locks));
        let _ = pins.release();
        let lock = locks.lock("a").await;
        assert!(matches!(locks.removal("a"), Attempt::Busy) && !locks.is_going("a"), "somebody works on it");
        drop(lock);
    }
}
