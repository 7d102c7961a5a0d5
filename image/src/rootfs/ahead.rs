//! Which roots were made ahead: for each of the chains that containers were made from last, a clone, mounted. A clone waits for a
//! transaction group, and its mount takes as long: together longer than all else that making a container takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use host::ContainerId;

use super::ChainId;
use crate::locks::hold;

/// The roots that wait for a container, those that are being made, and those that soon will be; each has an id as a container's
/// root has one.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    kept: Mutex<Kept>,
    /// One was made, or could not be, or is not to be made any more.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    most: usize,
    /// The oldest first.
    ready: VecDeque<(ChainId, ContainerId)>,
    making: BTreeMap<ChainId, ContainerId>,
    resting: BTreeMap<ChainId, ContainerId>,
}

impl Ahead {
    /// Keeps so many from now on, and gives those that are too many.
    pub(super) fn keep(&self, most: usize) -> Vec<ContainerId> {
        let mut kept = hold(&self.kept);
        kept.most = most;
        if most == 0 {
            kept.resting.clear();
            self.settled.notify_all();
        }
        while most == 0 && !kept.making.is_empty() {
            kept = self.settled.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
        let too_many = kept.ready.len().saturating_sub(most);
        kept.ready.drain(..too_many).map(|(_, id)| id).collect()
    }

    /// Takes the root of a chain, if one is ready.
    pub(super) fn take(&self, chain: &ChainId) -> Option<ContainerId> {
        let mut kept = hold(&self.kept);
        let at = kept.ready.iter().position(|(of, _)| of == chain)?;
        kept.ready.remove(at).map(|(_, id)| id)
    }

    /// The id of a root to be made for a chain; None: it has one, or shall have none.
    pub(super) fn begin(&self, chain: &ChainId) -> Option<ContainerId> {
        let mut kept = hold(&self.kept);
        let coming = kept.making.contains_key(chain) || kept.resting.contains_key(chain);
        if kept.most == 0 || coming || kept.ready.iter().any(|(of, _)| of == chain) {
            return None;
        }
        let id = ContainerId::random();
        kept.resting.insert(chain.clone(), id.clone());
        Some(id)
    }

    /// Waits before the root that was begun for a chain is made; false: it is not to be made any more.
    pub(super) fn rest(&self, chain: &ChainId, id: &ContainerId, pause: Duration) -> bool {
        let wanted = |kept: &mut Kept| kept.resting.get(chain) == Some(id);
        let waited = self.settled.wait_timeout_while(hold(&self.kept), pause, wanted);
        let (mut kept, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let wanted = wanted(&mut kept);
        if wanted {
            kept.resting.remove(chain);
            kept.making.insert(chain.clone(), id.clone());
        }
        wanted
    }

    /// The root that was begun for a chain is ready. Gives the one that is too many then; where none is wanted any more, whoever
    /// said so waits for it and takes it, since the server may end before this thread does.
    pub(super) fn made(&self, chain: &ChainId) -> Option<ContainerId> {
        let mut kept = hold(&self.kept);
        let id = kept.making.remove(chain)?;
        kept.ready.push_back((chain.clone(), id));
        self.settled.notify_all();
        let too_many = kept.most > 0 && kept.ready.len() > kept.most;
        if too_many { kept.ready.pop_front().map(|(_, id)| id) } else { None }
    }

    /// The root that was begun for a chain could not be made.
    pub(super) fn failed(&self, chain: &ChainId) {
        let mut kept = hold(&self.kept);
        kept.making.remove(chain);
        kept.resting.remove(chain);
        self.settled.notify_all();
    }

    /// Takes the root of a chain that is to go, also one that is being made just now.
    pub(super) fn forget(&self, chain: &ChainId) -> Option<ContainerId> {
        let mut kept = hold(&self.kept);
        kept.resting.remove(chain);
        self.settled.notify_all();
        while kept.making.contains_key(chain) {
            kept = self.settled.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
        drop(kept);
        self.take(chain)
    }

    /// Whether this is the id of a root that no container has.
    pub(super) fn has(&self, id: &ContainerId) -> bool {
        let kept = hold(&self.kept);
        kept.ready.iter().any(|(_, ready)| ready == id) || kept.making.values().any(|making| making == id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use host::ContainerId;

    use super::{Ahead, ChainId};

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(1000);

    fn chain(name: &str) -> ChainId {
        ChainId(name.to_owned())
    }

    /// One that is being made.
    fn begun(ahead: &Ahead, name: &str) -> ContainerId {
        let id = ahead.begin(&chain(name)).unwrap();
        assert!(ahead.rest(&chain(name), &id, Duration::ZERO));
        id
    }

    #[test]
    fn each_chain_has_one_and_the_oldest_is_too_many() {
        let ahead = Ahead::default();
        assert_eq!(ahead.begin(&chain("a")), None, "none are wanted");
        assert!(ahead.keep(2).is_empty());
        let first = begun(&ahead, "a");
        assert!(ahead.has(&first) && ahead.begin(&chain("a")).is_none() && ahead.take(&chain("a")).is_none());
        assert_eq!(ahead.made(&chain("a")), None);
        assert_eq!(ahead.begin(&chain("a")), None);
        let second = begun(&ahead, "b");
        ahead.made(&chain("b"));
        begun(&ahead, "c");
        assert_eq!(ahead.made(&chain("c")), Some(first));
        assert_eq!(ahead.take(&chain("b")), Some(second.clone()));
        assert!(!ahead.has(&second) && ahead.take(&chain("b")).is_none());
        assert_eq!(ahead.keep(0).len(), 1);
    }

    #[test]
    fn one_that_is_being_made_is_waited_for_and_then_too_many() {
        let ahead = Ahead::default();
        ahead.keep(1);
        let id = begun(&ahead, "a");
        std::thread::scope(|scope| {
            let forgotten = scope.spawn(|| ahead.forget(&chain("a")));
            ahead.made(&chain("a"));
            assert_eq!(forgotten.join().unwrap(), Some(id));
        });
        begun(&ahead, "a");
        ahead.failed(&chain("a"));
        assert!(ahead.keep(0).is_empty());
    }

    #[test]
    fn one_that_rests_is_not_made_any_more_and_nobody_waits_for_it() {
        let ahead = Ahead::default();
        ahead.keep(1);
        for not_wanted in [|ahead: &Ahead| drop(ahead.forget(&chain("a"))), |ahead: &Ahead| drop(ahead.keep(0))] {
            let id = ahead.begin(&chain("a")).unwrap();
            std::thread::scope(|scope| {
                let rested = scope.spawn(|| ahead.rest(&chain("a"), &id, LONG));
                not_wanted(&ahead);
                assert!(!rested.join().unwrap());
            });
            assert!(!ahead.has(&id));
        }
    }

    #[test]
    fn one_that_is_made_while_the_server_stops_is_its_to_remove() {
        let ahead = Ahead::default();
        ahead.keep(1);
        let id = begun(&ahead, "a");
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| ahead.keep(0));
            while ahead.begin(&chain("b")).is_some() {
                ahead.failed(&chain("b"));
            }
            assert_eq!(ahead.made(&chain("a")), None);
            assert_eq!(kept.join().unwrap(), [id]);
        });
    }
}
