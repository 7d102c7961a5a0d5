//! Interfaces, addresses and routes by rtnetlink: rtnetlink(7) on Linux and rtnetlink(4) on FreeBSD share the numbers.
//! The backends hold the rest.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::Counters;
use crate::netlink::{Answer, Connection, Message, flag, text};

// Message types, linux/rtnetlink.h.
pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DELETE_LINK: u16 = 17;
pub(crate) const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

// Attributes of a link, linux/if_link.h.
pub(crate) const LINK_ADDRESS: u16 = 1;
pub(crate) const LINK_NAME: u16 = 3;
pub(crate) const LINK_MTU: u16 = 4;
const LINK_ALIAS: u16 = 20;
const LINK_STATS: u16 = 23;

// Attributes of an address, linux/if_addr.h.
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
/// No duplicate address detection: the server assigns the addresses, and detection costs a second.
const NO_DAD: u32 = 0x02;
/// `struct ifa_cacheinfo` with infinite lifetimes; FreeBSD expires an address without one.
const ADDRESS_LIFETIMES: u16 = 6;
const FOREVER: [u8; 16] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];

// Attributes of a route, linux/rtnetlink.h.
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
/// How long a forwarding table may be older than the routes, twice, and how often it is asked.
const ROUTE_DELAY: Duration = Duration::from_secs(2);
const ROUTE_POLL: Duration = Duration::from_millis(5);
/// The default table of both systems.
const TABLE: u8 = 0;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
const SCOPE_LINK: u8 = 253;
const ROUTE_SOURCE: u16 = 7;

// Attributes, state and flag of a neighbour, linux/neighbour.h. Linux goes by the state, FreeBSD by the flag.
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;
const NEIGHBOUR_PERMANENT: u16 = 0x80;
const NEIGHBOUR_STICKY: u8 = 0x40;

/// `IFF_UP`.
pub(crate) const UP: u32 = 1;
/// Length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;

/// An interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) up: bool,
    pub(crate) stats: Stats,
}

/// The first eight fields of `struct rtnl_link_stats64`, as this end sees them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_errors: u64,
    pub(crate) tx_errors: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_dropped: u64,
}

impl Stats {
    /// Returns the counters of the other end: packets sent here are received there.
    pub(crate) fn seen_from_the_other_end(&self, interface: &str) -> Counters {
        Counters {
            interface: interface.to_owned(),
            rx_bytes: self.tx_bytes,
            rx_packets: self.tx_packets,
            rx_errors: self.tx_errors,
            rx_dropped: self.tx_dropped,
            tx_bytes: self.rx_bytes,
            tx_packets: self.rx_packets,
            tx_errors: self.rx_errors,
            tx_dropped: self.rx_dropped,
        }
    }
}

/// The interfaces of the network that the connection was opened in.
pub(crate) struct Links {
    connection: Connection,
}

impl Links {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Sends a request that only one system supports.
    pub(crate) fn request(&self, message: &Message) -> io::Result<()> {
        self.connection.request(message)
    }

    /// Looks up an interface; None if missing.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<Link>> {
        match self.connection.get(&Message::new(GET_LINK, 0, &header(0, 0, 0)).with_text(LINK_NAME, name)) {
            Ok(answer) => Ok(Some(link(&answer))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn list(&self) -> io::Result<Vec<Link>> {
        let answers = self.connection.dump(&Message::new(GET_LINK, 0, &header(0, 0, 0)))?;
        Ok(answers.iter().map(link).collect())
    }

    /// Sets the alias (on FreeBSD the description).
    pub(crate) fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        self.request(&change(index).with_text(LINK_ALIAS, alias))
    }

    pub(crate) fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.request(&change(index).with(LINK_ADDRESS, &mac))
    }

    /// Sets the MTU, in bytes.
    pub(crate) fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.request(&change(index).with_u32(LINK_MTU, mtu))
    }

    pub(crate) fn bring_up(&self, index: u32) -> io::Result<()> {
        self.request(&Message::new(NEW_LINK, 0, &header(index, UP, UP)))
    }

    /// Removes an interface with its peer. Idempotent.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        // By index: FreeBSD ignores the name.
        let Some(link) = self.find(name)? else { return Ok(()) };
        match self.request(&Message::new(DELETE_LINK, 0, &header(link.index, 0, 0))) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds an address. Idempotent.
    pub(crate) fn add_address(&self, index: u32, address: &IpNetwork) -> io::Result<()> {
        let ip = octets(address.ip());
        let mut message = Message::new(NEW_ADDRESS, flag::CREATE | flag::REPLACE, &address_header(index, address))
            .with(ADDRESS_LOCAL, &ip)
            .with(ADDRESS_ADDRESS, &ip);
        if address.is_ipv6() {
            message = message.with_u32(ADDRESS_FLAGS, NO_DAD).with(ADDRESS_LIFETIMES, &FOREVER);
        }
        self.request(&message)
    }

    pub(crate) fn remove_address(&self, index: u32, address: &IpNetwork) -> io::Result<()> {
        let header = address_header(index, address);
        self.request(&Message::new(DELETE_ADDRESS, 0, &header).with(ADDRESS_LOCAL, &octets(address.ip())))
    }

    /// Lists the addresses of wider than link scope, with the interface index.
    pub(crate) fn addresses(&self) -> io::Result<Vec<(u32, IpNetwork)>> {
        let answers = self.connection.dump(&Message::new(GET_ADDRESS, 0, &[0; ADDRESS_HEADER]))?;
        Ok(answers.iter().filter_map(address_of).collect())
    }

    /// Sets the route to a network by a gateway.
    pub(crate) fn add_route(&self, index: u32, to: &IpNetwork, gateway: IpAddr) -> io::Result<()> {
        let message = route(index, to.network(), to.prefix(), 0).with(ROUTE_GATEWAY, &octets(gateway));
        self.request(&message)
    }

    /// Sets the route to an address that is on the link. `source` is the source of what this machine sends there; only
    /// Linux takes one.
    pub(crate) fn add_host_route(&self, index: u32, to: IpAddr, source: Option<IpAddr>) -> io::Result<()> {
        let length = if to.is_ipv4() { 32 } else { 128 };
        let message = route(index, to, length, SCOPE_LINK);
        let message = source.iter().fold(message, |message, source| message.with(ROUTE_SOURCE, &octets(*source)));
        self.request(&message)
    }

    /// Returns the index of the interface that leads to an address; None without a route.
    pub(crate) fn route_to(&self, address: IpAddr) -> io::Result<Option<u32>> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let header = [family(address.is_ipv4()), length, 0, 0, TABLE, 0, 0, 0, 0, 0, 0, 0];
        let message = Message::new(GET_ROUTE, 0, &header).with(ROUTE_DESTINATION, &octets(address));
        let answer = match self.connection.get(&message) {
            Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable || is_missing(&error) => return Ok(None),
            answer => answer?,
        };
        let attributes = answer.attributes(header.len());
        let interface = attributes.iter().find(|(kind, _)| *kind == ROUTE_INTERFACE);
        Ok(interface.and_then(|(_, value)| value.first_chunk().copied()).map(u32::from_ne_bytes))
    }

    /// Sets a permanent neighbour: nothing on the link is asked for its MAC, and nothing there can change it.
    pub(crate) fn add_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        let ([a, b, c, d], [e, f]) = (index.to_ne_bytes(), NEIGHBOUR_PERMANENT.to_ne_bytes());
        let header = [family(address.is_ipv4()), 0, 0, 0, a, b, c, d, e, f, NEIGHBOUR_STICKY, 0];
        let message = Message::new(NEW_NEIGHBOUR, flag::CREATE | flag::REPLACE, &header)
            .with(NEIGHBOUR_ADDRESS, &octets(address))
            .with(NEIGHBOUR_MAC, &mac);
        // FreeBSD asks its forwarding table whether the address is on this link, and ENOMEM says that it is not. That table
        // follows the routes a second later at most (net.route.algo.fib_max_sync_delay_ms).
        let end = Instant::now() + ROUTE_DELAY;
        loop {
            match self.request(&message) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < end => {
                    std::thread::sleep(ROUTE_POLL);
                }
                answer => return answer,
            }
        }
    }
}

/// Starts a change that keeps the interface flags. FreeBSD reads a zero mask as all flags, so the mask names one that
/// neither system can change (`IFF_LOOPBACK`).
fn change(index: u32) -> Message {
    Message::new(NEW_LINK, 0, &header(index, 0, 0x8))
}

/// The errnos of both systems for a missing interface.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ENXIO | libc::ESRCH))
}

/// `struct ifinfomsg`: the flags in `change` become those in `flags`.
pub(crate) fn header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Starts a request for a route, replacing an existing one (`struct rtmsg`).
fn route(index: u32, to: IpAddr, length: u8, scope: u8) -> Message {
    let header = [family(to.is_ipv4()), length, 0, 0, TABLE, PROTOCOL_STATIC, scope, TYPE_UNICAST, 0, 0, 0, 0];
    Message::new(NEW_ROUTE, flag::CREATE | flag::REPLACE, &header)
        .with(ROUTE_DESTINATION, &octets(to))
        .with_u32(ROUTE_INTERFACE, index)
}

/// `struct ifaddrmsg`.
fn address_header(index: u32, address: &IpNetwork) -> [u8; ADDRESS_HEADER] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family(address.is_ipv4()), address.prefix(), 0, 0, a, b, c, d]
}

fn address_of(answer: &Answer) -> Option<(u32, IpNetwork)> {
    let header = answer.body.first_chunk::<ADDRESS_HEADER>()?;
    let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    if header[3] >= SCOPE_LINK {
        return None;
    }
    let attributes = answer.attributes(ADDRESS_HEADER);
    let value = |kind| attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value);
    let ip = value(ADDRESS_LOCAL).or_else(|| value(ADDRESS_ADDRESS))?;
    let ip = match ip.len() {
        4 => IpAddr::from(*ip.first_chunk::<4>()?),
        _ => IpAddr::from(*ip.first_chunk::<16>()?),
    };
    Some((index, IpNetwork::new(ip, header[1]).ok()?))
}

fn link(answer: &Answer) -> Link {
    let mut link = Link::default();
    if let Some([_, _, _, _, a, b, c, d, e, f, g, h]) = answer.body.first_chunk::<12>() {
        link.index = u32::from_ne_bytes([*a, *b, *c, *d]);
        link.up = u32::from_ne_bytes([*e, *f, *g, *h]) & UP != 0;
    }
    for (kind, value) in answer.attributes(LINK_HEADER) {
        match kind {
            LINK_NAME => link.name = text(value),
            LINK_ALIAS => link.alias = text(value),
            LINK_STATS => link.stats = stats(value),
            _ => (),
        }
    }
    link
}

fn stats(value: &[u8]) -> Stats {
    let number = |index: usize| {
        let bytes = value.get(8 * index..).and_then(|rest| rest.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    Stats {
        rx_packets: number(0),
        tx_packets: number(1),
        rx_bytes: number(2),
        tx_bytes: number(3),
        rx_errors: number(4),
        tx_errors: number(5),
        rx_dropped: number(6),
        tx_dropped: number(7),
    }
}

fn family(ipv4: bool) -> u8 {
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("both families are small numbers")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
