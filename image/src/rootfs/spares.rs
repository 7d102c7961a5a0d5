//! Spare roots: a mounted clone for each chain that containers were last made from. The clone waits for a transaction group, and
//! its mount takes as long: together they take longer than the rest of CreateContainer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use host::ContainerId;

use super::ChainId;
use crate::locks::hold;

/// The spares that are ready, those that are being made, and those that are due. Each has an id like a container's.
#[derive(Debug, Default)]
pub(super) struct Spares {
    kept: Mutex<Kept>,
    /// A spare was made, failed, or is no longer wanted.
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

impl Spares {
    /// Sets the number of spares to keep, and takes the excess ones. With 0, waits for those that are being made.
    pub(super) fn set_limit(&self, most: usize) -> Vec<ContainerId> {
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

    /// Takes the spare of a chain, if one is ready.
    pub(super) fn take(&self, chain: &ChainId) -> Option<ContainerId> {
        let mut kept = hold(&self.kept);
        let at = kept.ready.iter().position(|(of, _)| of == chain)?;
        kept.ready.remove(at).map(|(_, id)| id)
    }

    /// Reserves the id of a new spare for a chain; None: the chain has one, or no spares are wanted.
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

    /// Waits before a reserved spare is made; false: it is no longer wanted.
    pub(super) fn wait(&self, chain: &ChainId, id: &ContainerId, pause: Duration) -> bool {
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

    /// Marks a spare as ready, and takes the excess one. With a limit of 0, [`Spares::set_limit`] waits for the spare and takes it,
    /// since the server may end before this thread does.
    pub(super) fn finish(&self, chain: &ChainId) -> Option<ContainerId> {
        let mut kept = hold(&self.kept);
        let id = kept.making.remove(chain)?;
        kept.ready.push_back((chain.clone(), id));
        self.settled.notify_all();
        let too_many = kept.most > 0 && kept.ready.len() > kept.most;
        if too_many { kept.ready.pop_front().map(|(_, id)| id) } else { None }
    }

    /// Drops a spare that could not be made.
    pub(super) fn abandon(&self, chain: &ChainId) {
        let mut kept = hold(&self.kept);
        kept.making.remove(chain);
        kept.resting.remove(chain);
        self.settled.notify_all();
    }

    /// Takes the spare of a chain that will be removed; waits for one that is being made.
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

    /// Whether this is the id of a spare.
    pub(super) fn has(&self, id: &ContainerId) -> bool {
        let kept = hold(&self.kept);
        kept.ready.iter().any(|(_, ready)| ready == id) || kept.making.values().any(|making| making == id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use host::ContainerId;

    use super::{ChainId, Spares};

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(1000);

    fn chain(name: &str) -> ChainId {
        ChainId(name.to_owned())
    }

    /// Begins a spare and lets it be made.
    fn begun(spares: &Spares, name: &str) -> ContainerId {
        let id = spares.begin(&chain(name)).unwrap();
        assert!(spares.wait(&chain(name), &id, Duration::ZERO));
        id
    }

    #[test]
    fn each_chain_has_one_and_the_oldest_is_too_many() {
        let spares = Spares::default();
        assert_eq!(spares.begin(&chain("a")), None, "the limit is 0");
        assert!(spares.set_limit(2).is_empty());
        let first = begun(&spares, "a");
        assert!(spares.has(&first) && spares.begin(&chain("a")).is_none() && spares.take(&chain("a")).is_none());
        assert_eq!(spares.finish(&chain("a")), None);
        assert_eq!(spares.begin(&chain("a")), None);
        let second = begun(&spares, "b");
        spares.finish(&chain("b"));
        begun(&spares, "c");
        assert_eq!(spares.finish(&chain("c")), Some(first));
        assert_eq!(spares.take(&chain("b")), Some(second.clone()));
        assert!(!spares.has(&second) && spares.take(&chain("b")).is_none());
        assert_eq!(spares.set_limit(0).len(), 1);
    }

    #[test]
    fn one_that_is_being_made_is_waited_for_and_then_too_many() {
        let spares = Spares::default();
        spares.set_limit(1);
        let id = begun(&spares, "a");
        std::thread::scope(|scope| {
            let forgotten = scope.spawn(|| spares.forget(&chain("a")));
            spares.finish(&chain("a"));
            assert_eq!(forgotten.join().unwrap(), Some(id));
        });
        begun(&spares, "a");
        spares.abandon(&chain("a"));
        assert!(spares.set_limit(0).is_empty());
    }

    #[test]
    fn one_that_rests_is_not_made_any_more_and_nobody_waits_for_it() {
        let spares = Spares::default();
        spares.set_limit(1);
        for not_wanted in
            [|spares: &Spares| drop(spares.forget(&chain("a"))), |spares: &Spares| drop(spares.set_limit(0))]
        {
            let id = spares.begin(&chain("a")).unwrap();
            std::thread::scope(|scope| {
                let rested = scope.spawn(|| spares.wait(&chain("a"), &id, LONG));
                not_wanted(&spares);
                assert!(!rested.join().unwrap());
            });
            assert!(!spares.has(&id));
        }
    }

    #[test]
    fn one_that_is_made_while_the_server_stops_is_its_to_remove() {
        let spares = Spares::default();
        spares.set_limit(1);
        let id = begun(&spares, "a");
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| spares.set_limit(0));
            while spares.begin(&chain("b")).is_some() {
                spares.abandon(&chain("b"));
            }
            assert_eq!(spares.finish(&chain("a")), None);
            assert_eq!(kept.join().unwrap(), [id]);
        });
    }
}
