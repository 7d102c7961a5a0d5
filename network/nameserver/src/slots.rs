//! Limits what pods may have open at once, all together and each, so that none takes everything from the others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The slots of one kind.
#[derive(Debug)]
pub(crate) struct Slots {
    all: usize,
    each: usize,
    taken: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A slot that is taken until this value is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    by: IpAddr,
}

impl Slots {
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// Takes a slot for an address; None: there is none.
    pub(crate) fn take(self: &Arc<Self>, by: IpAddr) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = taken.entry(by).or_default();
        if *own >= self.each {
            return None;
        }
        *own += 1;
        Some(Slot { slots: Arc::clone(self), by })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.by) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Slots;

    #[test]
    fn nobody_takes_more_than_a_share() {
        let [one, two]: [IpAddr; 2] = ["10.1.0.2".parse().unwrap(), "10.1.0.3".parse().unwrap()];
        let slots = Slots::new(3, 2);
        let mut held = vec![slots.take(one).unwrap(), slots.take(one).unwrap()];
        assert!(slots.take(one).is_none());
        held.push(slots.take(two).unwrap());
        assert!(slots.take(two).is_none(), "all are taken");
        held.remove(0);
        assert!(slots.take(two).is_some());
        held.clear();
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
