//! Which addresses pods had, by the pods' names, so that a pod which comes back gets the address that it had. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many names are remembered: jobs and deployments give every pod a new one. A name and two addresses are about 100 bytes.
const NAMES: usize = 4096;

/// The addresses that names had last. An address belongs to the last name that had it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Former {
    names: BTreeMap<String, Had>,
    owners: BTreeMap<IpAddr, String>,
}

#[derive(Debug, Clone)]
struct Had {
    addresses: Vec<IpAddr>,
    /// When it had them, in nanoseconds since 1970.
    at: i64,
}

impl Former {
    /// Remembers the addresses of a name, and forgets the ones before.
    pub(crate) fn put(&mut self, name: &str, addresses: &[IpAddr], at: i64) {
        self.remove(name);
        for address in addresses {
            if let Some(had) =
                self.owners.insert(*address, name.to_owned()).and_then(|other| self.names.get_mut(&other))
            {
                had.addresses.retain(|other| other != address);
            }
        }
        self.names.insert(name.to_owned(), Had { addresses: addresses.to_vec(), at });
    }

    /// Forgets a name. Idempotent.
    fn remove(&mut self, name: &str) {
        let had = self.names.remove(name);
        for address in had.into_iter().flat_map(|had| had.addresses) {
            self.owners.remove(&address);
        }
    }

    /// Forgets the name that had its addresses the longest time ago, if there are too many, and returns it. Names whose addresses
    /// are in use stay.
    pub(crate) fn shrink(&mut self, is_taken: impl Fn(&IpAddr) -> bool) -> Option<String> {
        if self.names.len() <= NAMES {
            return None;
        }
        let unused = self.names.iter().filter(|(_, had)| !had.addresses.iter().any(&is_taken));
        let oldest = unused.min_by_key(|(_, had)| had.at)?.0.clone();
        self.remove(&oldest);
        Some(oldest)
    }

    /// Returns the addresses that a name had.
    pub(crate) fn of(&self, name: &str) -> &[IpAddr] {
        self.names.get(name).map_or(&[], |had| &had.addresses)
    }

    /// Whether some name had this address.
    pub(crate) fn has(&self, address: &IpAddr) -> bool {
        self.owners.contains_key(address)
    }

    /// Returns the addresses that names had, the longest ago first.
    pub(crate) fn oldest(&self) -> Vec<IpAddr> {
        let mut all: Vec<&Had> = self.names.values().collect();
        all.sort_by_key(|had| had.at);
        all.into_iter().flat_map(|had| had.addresses.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Former, NAMES};

    fn ip(number: usize) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap()).into()
    }

    #[test]
    fn an_address_belongs_to_the_last_name_that_had_it() {
        let mut former = Former::default();
        former.put("a/web", &[ip(2), ip(3)], 1);
        former.put("a/db", &[ip(3)], 2);
        assert_eq!((former.of("a/web"), former.of("a/db")), (&[ip(2)][..], &[ip(3)][..]));
        former.put("a/web", &[ip(4)], 3);
        assert!(!former.has(&ip(2)));
        assert_eq!(former.oldest(), [ip(3), ip(4)]);
    }

    #[test]
    fn the_oldest_name_that_no_pod_has_is_forgotten_first() {
        let mut former = Former::default();
        for number in 0..NAMES {
            former.put(&format!("a/{number}"), &[ip(number)], i64::try_from(number).unwrap());
            assert_eq!(former.shrink(|_| false), None);
        }
        former.put("a/new", &[ip(NAMES)], i64::MAX);
        assert_eq!(former.shrink(|address| *address == ip(0)), Some("a/1".to_owned()));
        assert_eq!((former.of("a/0"), former.of("a/1")), (&[ip(0)][..], &[][..]));
        assert_eq!(former.shrink(|_| false), None);
    }
}
