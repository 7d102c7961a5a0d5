//! Allocates pod addresses. Pure. A network is a range of numbers and the taken addresses are a set, so a /64 costs no
//! more than a /24. Allocation is round-robin: a released address, which ARP or connection tables may still hold, is
//! reused last. A pod whose name had an address gets it again, unless all others were taken meanwhile.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::Error;
use crate::former::Former;

/// The pod networks and their taken addresses.
#[derive(Debug, Clone)]
pub struct Ipam {
    pools: Vec<Pool>,
    taken: BTreeSet<IpAddr>,
    former: Former,
}

/// What [`Ipam::allocate_named`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// One address of each family, as [`Ipam::allocate`] gives them.
    pub addresses: Vec<IpNetwork>,
    /// A name that is not remembered any more.
    pub forgotten: Option<String>,
}

/// A network and the start of the next search.
#[derive(Debug, Clone)]
struct Pool {
    network: IpNetwork,
    next: u128,
}

impl Ipam {
    /// Creates pools with every address free. Within a family, the first network with room is used.
    ///
    /// # Errors
    /// [`Error::Invalid`] for networks that [`check`] refuses.
    pub fn new(networks: &[IpNetwork]) -> Result<Self, Error> {
        check(networks)?;
        let pools = networks.iter().map(|network| Pool::new(*network)).collect();
        Ok(Self { pools, taken: BTreeSet::new(), former: Former::default() })
    }

    /// Replaces the networks. Taken addresses stay taken, also in removed networks.
    ///
    /// # Errors
    /// As [`Ipam::new`]; nothing was changed then.
    pub fn reconfigure(&mut self, networks: &[IpNetwork]) -> Result<(), Error> {
        let mut changed = Self::new(networks)?;
        for pool in &mut changed.pools {
            if let Some(known) = self.pools.iter().find(|known| known.network == pool.network) {
                pool.next = known.next;
            }
        }
        self.pools = changed.pools;
        Ok(())
    }

    /// Allocates one address per family, in the order of the networks, with its prefix length. Uses the address in
    /// `requested` for its family, otherwise the next free one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a requested address that no pod can have; [`Error::Conflict`] for a taken one;
    /// [`Error::Exhausted`]. Nothing was taken then.
    pub fn allocate(&mut self, requested: &[IpAddr]) -> Result<Vec<IpNetwork>, Error> {
        self.allocate_again(requested, &[])
    }

    /// Allocates as [`Ipam::allocate`], and prefers the addresses that this name had to all but the requested ones. Remembers what
    /// it gives; [`Named::forgotten`] made room for that.
    ///
    /// # Errors
    /// As [`Ipam::allocate`].
    pub fn allocate_named(&mut self, name: &str, at: i64, requested: &[IpAddr]) -> Result<Named, Error> {
        let former: Vec<IpAddr> = self.former.of(name).iter().copied().filter(|had| self.is_free(*had)).collect();
        let addresses = self.allocate_again(requested, &former)?;
        self.remember(name, at, &addresses.iter().map(IpNetwork::ip).collect::<Vec<_>>());
        let forgotten = self.former.shrink(|address| self.taken.contains(address));
        Ok(Named { addresses, forgotten })
    }

    /// Remembers the addresses that a name had at this time, in nanoseconds since 1970. The last call for an address counts.
    pub fn remember(&mut self, name: &str, at: i64, addresses: &[IpAddr]) {
        self.former.put(name, addresses, at);
    }

    fn allocate_again(&mut self, requested: &[IpAddr], former: &[IpAddr]) -> Result<Vec<IpNetwork>, Error> {
        let mut given: Vec<IpNetwork> = Vec::new();
        for address in requested {
            self.check_requested(*address, requested)?;
        }
        for family in self.families() {
            let of_family = |address: &&IpAddr| address.is_ipv4() == family.is_ipv4();
            given.push(match requested.iter().find(of_family).or_else(|| former.iter().find(of_family)) {
                Some(address) => self.network_of(*address),
                None => self.next_free(family)?,
            });
        }
        self.taken.extend(given.iter().map(IpNetwork::ip));
        Ok(given)
    }

    /// Marks addresses of recorded pods as taken, after a restart. Idempotent.
    pub fn take(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.taken.insert(*address);
            if let Some(pool) = self.pools.iter_mut().find(|pool| pool.network.contains(*address)) {
                let after = number(*address).saturating_add(1);
                pool.next = pool.next.max(after);
            }
        }
    }

    /// Releases addresses. Idempotent.
    pub fn release(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.taken.remove(address);
        }
    }

    /// Returns the first network of each family, in order.
    fn families(&self) -> Vec<IpNetwork> {
        let mut families: Vec<IpNetwork> = Vec::new();
        for pool in &self.pools {
            if !families.iter().any(|family| family.is_ipv4() == pool.network.is_ipv4()) {
                families.push(pool.network);
            }
        }
        families
    }

    fn check_requested(&self, address: IpAddr, requested: &[IpAddr]) -> Result<(), Error> {
        let invalid = |reason: String| Error::Invalid { field: "address".to_owned(), reason };
        if requested.iter().filter(|other| other.is_ipv4() == address.is_ipv4()).count() > 1 {
            return Err(invalid(format!("{address} is not the only address of its family")));
        }
        let Some(pool) = self.pools.iter().find(|pool| pool.network.contains(address)) else {
            let networks: Vec<String> = self.pools.iter().map(|pool| pool.network.to_string()).collect();
            return Err(invalid(format!("{address} is not in a pod network ({})", networks.join(", "))));
        };
        if !pool.gives(address) {
            let why = "the network's own, gateway or broadcast address";
            return Err(invalid(format!("{address} is {why} in {}", pool.network)));
        }
        if self.taken.contains(&address) {
            return Err(Error::Conflict { what: format!("address {address} is taken by another pod") });
        }
        Ok(())
    }

    /// Returns a checked address with its network's prefix length.
    fn network_of(&self, address: IpAddr) -> IpNetwork {
        let pool = self.pools.iter().find(|pool| pool.network.contains(address));
        let prefix = pool.expect("a checked address is in a pool").network.prefix();
        with_prefix(address, prefix)
    }

    /// Whether a pod may have this address, and none has.
    fn is_free(&self, address: IpAddr) -> bool {
        let pool = self.pools.iter().find(|pool| pool.network.contains(address));
        pool.is_some_and(|pool| pool.gives(address)) && !self.taken.contains(&address)
    }

    fn next_free(&mut self, family: IpNetwork) -> Result<IpNetwork, Error> {
        let (taken, former) = (&self.taken, &self.former);
        let mut full = Vec::new();
        for pool in self.pools.iter_mut().filter(|pool| pool.network.is_ipv4() == family.is_ipv4()) {
            if let Some(address) = pool.next_free(|address| taken.contains(address) || former.has(address)) {
                return Ok(with_prefix(address, pool.network.prefix()));
            }
            full.push(pool.network.to_string());
        }
        // All that is left was another name's.
        let mut oldest = former.oldest().into_iter();
        let of_family = |had: &IpAddr| had.is_ipv4() == family.is_ipv4() && self.is_free(*had);
        if let Some(address) = oldest.find(of_family) {
            return Ok(self.network_of(address));
        }
        let kind = if family.is_ipv4() { "IPv4" } else { "IPv6" };
        let taken = taken.iter().filter(|address| address.is_ipv4() == family.is_ipv4()).count();
        Err(Error::Exhausted {
            what: format!("no {kind} address is left in {}: {taken} are taken", full.join(" and ")),
        })
    }
}

impl Pool {
    fn new(network: IpNetwork) -> Self {
        let network = with_prefix(network.network(), network.prefix());
        let mut pool = Self { network, next: 0 };
        pool.next = pool.range().0;
        pool
    }

    /// Returns the first and last number for pods, without the network's own address, the gateway (the first) and the
    /// IPv4 broadcast address.
    fn range(&self) -> (u128, u128) {
        let first = number(self.network.network()) + 2;
        let last = number(self.network.broadcast());
        (first, if self.network.is_ipv4() { last - 1 } else { last })
    }

    /// Whether it is an address for a pod.
    fn gives(&self, address: IpAddr) -> bool {
        let (first, last) = self.range();
        self.network.contains(address) && (first..=last).contains(&number(address))
    }

    /// Returns the next address after the last one allocated that is not taken, wrapping once. Takes at most as many steps as
    /// there are taken addresses.
    fn next_free(&mut self, is_taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let (first, last) = self.range();
        let start = if (first..=last).contains(&self.next) { self.next } else { first };
        let ipv4 = self.network.is_ipv4();
        let free = |from: u128, to: u128| {
            let mut candidate = from;
            while candidate <= to && is_taken(&address(candidate, ipv4)) {
                candidate += 1;
            }
            (candidate <= to).then_some(candidate)
        };
        let found = free(start, last).or_else(|| if start > first { free(first, start - 1) } else { None })?;
        self.next = found.saturating_add(1);
        Some(address(found, ipv4))
    }
}

/// Returns the gateway of a network, which is the bridge's address: the first.
#[must_use]
pub fn gateway(network: &IpNetwork) -> IpNetwork {
    with_prefix(address(number(network.network()) + 1, network.is_ipv4()), network.prefix())
}

/// Returns the pod networks and the former networks of these addresses.
pub fn with_former<'a>(networks: &[IpNetwork], addresses: impl Iterator<Item = &'a IpNetwork>) -> Vec<IpNetwork> {
    let mut all = networks.to_vec();
    for address in addresses {
        if !all.iter().any(|network| network.contains(address.ip())) {
            all.push(*address);
        }
    }
    all
}

/// Checks pod networks: at least one, each with room for a gateway and a pod, without overlap.
///
/// # Errors
/// [`Error::Invalid`] names the network.
pub fn check(networks: &[IpNetwork]) -> Result<(), Error> {
    let invalid = |reason: String| Err(Error::Invalid { field: "pod networks".to_owned(), reason });
    if networks.is_empty() {
        return invalid("at least one is required".to_owned());
    }
    for (index, network) in networks.iter().enumerate() {
        let longest = if network.is_ipv4() { 30 } else { 126 };
        if network.prefix() > longest {
            return invalid(format!("{network} has no room for a gateway and a pod: /{longest} is the smallest"));
        }
        if network.network().is_unspecified() || network.ip().is_multicast() || network.ip().is_loopback() {
            return invalid(format!("{network} is not a network of hosts"));
        }
        let overlapping = networks[..index].iter().find(|other| overlap(other, network));
        if let Some(other) = overlapping {
            return invalid(format!("{network} and {other} overlap"));
        }
    }
    Ok(())
}

fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

/// Returns a network without the host bits of its address.
#[must_use]
pub fn without_host_bits(network: &IpNetwork) -> IpNetwork {
    with_prefix(network.network(), network.prefix())
}

/// Formats a network without the host bits of its address.
pub(crate) fn plain(network: &IpNetwork) -> String {
    without_host_bits(network).to_string()
}

/// Joins an address and a prefix length.
pub(crate) fn with_prefix(address: IpAddr, prefix: u8) -> IpNetwork {
    IpNetwork::new(address, prefix).expect("the length is that of a network of the same family")
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    if ipv4 {
        let number = u32::try_from(number).expect("a number in an IPv4 network has 32 bits");
        IpAddr::V4(Ipv4Addr::from(number))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnetwork::IpNetwork;

    use super::{Ipam, gateway};
    use crate::Error;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ipam(texts: &[&str]) -> Ipam {
        Ipam::new(&networks(texts)).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn next(ipam: &mut Ipam) -> String {
        ipam.allocate(&[]).unwrap()[0].to_string()
    }

    #[test]
    fn one_address_of_each_family_after_the_gateway() {
        let mut ipam = ipam(&["10.1.0.0/16", "fd00:1::/64"]);
        let given: Vec<String> = ipam.allocate(&[]).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(given, ["10.1.0.2/16", "fd00:1::2/64"]);
        assert_eq!(gateway(&networks(&["10.1.0.0/16"])[0]).to_string(), "10.1.0.1/16");
        assert_eq!(gateway(&networks(&["fd00:1::/64"])[0]).to_string(), "fd00:1::1/64");
    }

    #[test]
    fn a_released_address_comes_back_last_and_none_is_given_twice() {
        let mut ipam = ipam(&["10.1.0.0/29"]);
        let all: Vec<String> = (0..5).map(|_| next(&mut ipam)).collect();
        assert_eq!(all, ["10.1.0.2/29", "10.1.0.3/29", "10.1.0.4/29", "10.1.0.5/29", "10.1.0.6/29"]);
        let exhausted = ipam.allocate(&[]).unwrap_err();
        assert!(matches!(exhausted, Error::Exhausted { .. }));
        assert_eq!(exhausted.to_string(), "no IPv4 address is left in 10.1.0.0/29: 5 are taken");
        ipam.release(&[ip("10.1.0.6"), ip("10.1.0.3")]);
        assert_eq!(next(&mut ipam), "10.1.0.3/29");
        ipam.release(&[ip("10.1.0.3")]);
        assert_eq!(next(&mut ipam), "10.1.0.6/29");
        assert_eq!(next(&mut ipam), "10.1.0.3/29");
    }

    #[test]
    fn what_the_records_tell_is_not_given_again() {
        let mut ipam = ipam(&["10.1.0.0/29"]);
        ipam.take(&[ip("10.1.0.2"), ip("10.1.0.4"), ip("192.0.2.1")]);
        assert_eq!(next(&mut ipam), "10.1.0.5/29");
        assert_eq!(next(&mut ipam), "10.1.0.6/29");
        assert_eq!(next(&mut ipam), "10.1.0.3/29");
        assert!(ipam.allocate(&[]).is_err());
    }

    #[test]
    fn a_wanted_address_is_given_or_refused_by_its_value() {
        let cases: &[(&[&str], &str)] = &[
            (&["192.0.2.7"], "192.0.2.7 is not in a pod network (10.1.0.0/24, fd00:1::/64)"),
            (&["10.1.0.0"], "10.1.0.0 is the network's own"),
            (&["10.1.0.1"], "10.1.0.1 is the network's own, gateway"),
            (&["10.1.0.255"], "10.1.0.255 is the network's own"),
            (&["10.1.0.9"], "address 10.1.0.9 is taken"),
            (&["10.1.0.7", "10.1.0.8"], "10.1.0.7 is not the only address of its family"),
            (&["fd00:2::5"], "fd00:2::5 is not in a pod network"),
        ];
        let mut ipam = ipam(&["10.1.0.0/24", "fd00:1::/64"]);
        let given = ipam.allocate(&[ip("10.1.0.9"), ip("fd00:1::ffff")]).unwrap();
        assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.9/24", "fd00:1::ffff/64"]);
        for (requested, expected) in cases {
            let requested: Vec<IpAddr> = requested.iter().map(|text| ip(text)).collect();
            let error = ipam.allocate(&requested).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // A refused request took nothing: the next address is the first.
        let given = ipam.allocate(&[ip("fd00:1::7")]).unwrap();
        assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.2/24", "fd00:1::7/64"]);
    }

    fn named(ipam: &mut Ipam, name: &str, at: i64) -> String {
        let given = ipam.allocate_named(name, at, &[]).unwrap();
        given.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_name_gets_the_address_that_it_had_unless_another_needs_it() {
        let mut ipam = ipam(&["10.1.0.0/29"]);
        for (at, name, address) in [(1, "a/db", "10.1.0.2"), (2, "a/web", "10.1.0.3"), (3, "a/log", "10.1.0.4")] {
            assert_eq!(named(&mut ipam, name, at), address);
        }
        ipam.release(&[ip("10.1.0.2"), ip("10.1.0.3")]);
        assert_eq!(named(&mut ipam, "a/new", 4), "10.1.0.5", "of the others some are still a name's");
        assert_eq!(named(&mut ipam, "a/web", 5), "10.1.0.3");
        ipam.release(&[ip("10.1.0.3")]);
        assert_eq!(named(&mut ipam, "a/newer", 6), "10.1.0.6");
        assert_eq!(named(&mut ipam, "a/newest", 7), "10.1.0.2", "the one that was used the longest time ago");
        assert_eq!(named(&mut ipam, "a/db", 8), "10.1.0.3", "its own is another's now");
        assert_eq!(
            ipam.allocate_named("a/web", 9, &[]).unwrap_err().to_string(),
            "no IPv4 address is left in 10.1.0.0/29: 5 are taken"
        );
    }

    #[test]
    fn a_requested_address_and_changed_networks_come_before_the_former_one() {
        let mut ipam = ipam(&["10.1.0.0/24", "fd00:1::/64"]);
        ipam.remember("a/db", 1, &[ip("10.1.0.9"), ip("fd00:1::9")]);
        let given = ipam.allocate_named("a/db", 2, &[ip("10.1.0.7")]).unwrap().addresses;
        assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.7/24", "fd00:1::9/64"]);
        ipam.release(&[ip("10.1.0.7"), ip("fd00:1::9")]);
        ipam.reconfigure(&networks(&["10.2.0.0/24", "fd00:1::/64"])).unwrap();
        assert_eq!(named(&mut ipam, "a/db", 3), "10.2.0.2 fd00:1::9");
        // The gateway's address is nobody's, whatever is remembered.
        ipam.remember("a/odd", 4, &[ip("10.2.0.1")]);
        assert_eq!(named(&mut ipam, "a/odd", 5), "10.2.0.3 fd00:1::2");
    }

    #[test]
    fn a_second_network_of_a_family_is_used_when_the_first_is_full() {
        let mut ipam = ipam(&["10.1.0.0/30", "10.2.0.0/30"]);
        assert_eq!(next(&mut ipam), "10.1.0.2/30");
        assert_eq!(next(&mut ipam), "10.2.0.2/30");
    }

    #[test]
    fn changed_networks_keep_what_is_taken() {
        let mut ipam = ipam(&["10.1.0.0/24"]);
        assert_eq!(next(&mut ipam), "10.1.0.2/24");
        ipam.reconfigure(&networks(&["10.2.0.0/24", "10.1.0.0/24"])).unwrap();
        assert_eq!(next(&mut ipam), "10.2.0.2/24");
        assert!(matches!(ipam.allocate(&[ip("10.1.0.2")]), Err(Error::Conflict { .. })));
    }

    #[test]
    fn networks_without_room_are_refused_by_name() {
        for (texts, expected) in [
            (&[][..], "at least one is required"),
            (&["10.1.0.0/31"], "10.1.0.0/31 has no room"),
            (&["fd00::/127"], "fd00::/127 has no room"),
            (&["10.1.0.0/16", "10.1.2.0/24"], "10.1.2.0/24 and 10.1.0.0/16 overlap"),
            (&["127.0.0.0/8"], "127.0.0.0/8 is not a network of hosts"),
            (&["0.0.0.0/0"], "0.0.0.0/0 is not a network of hosts"),
        ] {
            let error = Ipam::new(&networks(texts)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
