//! Interfaces, addresses and routes by rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnetwork::IpNetwork;

use crate::netlink::{Answer, Connection, Message, flag, text};

// Message types, linux/rtnetlink.h.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;

// Attributes of a link, linux/if_link.h.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_ALIAS: u16 = 20;
const LINK_PORT: u16 = 12;
const LINK_STATS: u16 = 23;
const LINK_NETNS: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
/// `IFLA_BRPORT_MODE`, and the flag that such a nest carries (`NLA_F_NESTED`).
const PORT_HAIRPIN: u16 = 4;
const NESTED: u16 = 0x8000;

// Attributes of an address, linux/if_addr.h.
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
/// No duplicate address detection: addresses are the server's to give, and it would cost a second.
const NO_DAD: u32 = 0x02;

// Of a route, linux/rtnetlink.h.
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
const SCOPE_LINK: u8 = 253;

/// `IFF_UP`.
const UP: u32 = 1;
/// Length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// The index of lo: the first interface of every network namespace.
const LOOPBACK: u32 = 1;

/// An interface that is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) stats: Stats,
}

/// The first eight numbers of `struct rtnl_link_stats64`, as this end of the wire sees them.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats {
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_errors: u64,
    pub(super) rx_dropped: u64,
    pub(super) tx_dropped: u64,
}

/// A veth pair that is wanted.
pub(super) struct Veth<'a> {
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
    pub(super) bridge: u32,
    pub(super) mtu: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_mac: [u8; 6],
    pub(super) netns: BorrowedFd<'a>,
}

/// The interfaces of one network namespace.
pub(super) struct Links {
    connection: Connection,
}

impl Links {
    /// Those of the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { connection: Connection::open(libc::AF_NETLINK, libc::NETLINK_ROUTE)? })
    }

    /// The interface of this name.
    pub(super) fn find(&self, name: &str) -> io::Result<Option<Link>> {
        match self.connection.get(&Message::new(GET_LINK, 0, &header(0, 0, 0)).with_text(LINK_NAME, name)) {
            Ok(answer) => Ok(Some(link(&answer))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of them.
    pub(super) fn list(&self) -> io::Result<Vec<Link>> {
        let answers = self.connection.dump(&Message::new(GET_LINK, 0, &header(0, 0, 0)))?;
        Ok(answers.iter().map(link).collect())
    }

    /// Makes a bridge, up; one that is there is kept.
    pub(super) fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<Link> {
        if self.find(name)?.is_none() {
            let info = Message::nest(&[]).with_text(INFO_KIND, "bridge");
            let message = Message::new(NEW_LINK, flag::CREATE | flag::EXCL, &header(0, 0, 0))
                .with_text(LINK_NAME, name)
                .with(LINK_ADDRESS, &mac)
                .with_nested(LINK_INFO, &info);
            self.connection.request(&message)?;
        }
        let link = self.find(name)?.ok_or(io::ErrorKind::NotFound)?;
        self.connection.request(&Message::new(SET_LINK, 0, &header(link.index, UP, UP)).with_u32(LINK_MTU, mtu))?;
        Ok(link)
    }

    /// Makes a pair of interfaces: one here, a port of the bridge, the other in the other namespace.
    pub(super) fn add_veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        let netns = u32::try_from(veth.netns.as_raw_fd()).map_err(io::Error::other)?;
        let peer = Message::nest(&header(0, 0, 0))
            .with_text(LINK_NAME, veth.peer_name)
            .with(LINK_ADDRESS, &veth.peer_mac)
            .with_u32(LINK_MTU, veth.mtu)
            .with_u32(LINK_NETNS, netns);
        let data = Message::nest(&[]).with_nested(VETH_PEER, &peer);
        let info = Message::nest(&[]).with_text(INFO_KIND, "veth").with_nested(INFO_DATA, &data);
        let message = Message::new(NEW_LINK, flag::CREATE | flag::EXCL, &header(0, UP, UP))
            .with_text(LINK_NAME, veth.name)
            .with(LINK_ADDRESS, &veth.mac)
            .with_u32(LINK_MTU, veth.mtu)
            .with_u32(LINK_MASTER, veth.bridge)
            .with_nested(LINK_INFO, &info);
        self.connection.request(&message)
    }

    /// Notes a text with an interface.
    pub(super) fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        self.set(Message::new(SET_LINK, 0, &header(index, 0, 0)).with_text(LINK_ALIAS, alias))
    }

    /// Lets a port of a bridge get back what it sent: where bridged frames pass through netfilter (br_netfilter, which
    /// Kubernetes nodes load), what a pod sends to its own host port never leaves the bridge.
    pub(super) fn set_hairpin(&self, index: u32) -> io::Result<()> {
        let mut header = header(index, 0, 0);
        header[0] = u8::try_from(libc::AF_BRIDGE).map_err(io::Error::other)?;
        let port = Message::nest(&[]).with(PORT_HAIRPIN, &[1]);
        self.set(Message::new(SET_LINK, 0, &header).with_nested(NESTED | LINK_PORT, &port))
    }

    /// Gives an interface another name and address; it is down for a moment.
    pub(super) fn rename(&self, index: u32, name: &str, mac: [u8; 6]) -> io::Result<()> {
        self.set(Message::new(SET_LINK, 0, &header(index, 0, UP)))?;
        self.set(Message::new(SET_LINK, 0, &header(index, 0, 0)).with_text(LINK_NAME, name).with(LINK_ADDRESS, &mac))?;
        self.up(index)
    }

    /// Brings an interface up.
    pub(super) fn up(&self, index: u32) -> io::Result<()> {
        self.set(Message::new(SET_LINK, 0, &header(index, UP, UP)))
    }

    /// Brings the loopback interface up, which gives it its addresses.
    pub(super) fn up_loopback(&self) -> io::Result<()> {
        self.up(LOOPBACK)
    }

    /// Removes an interface, and its peer with it; one that is not there is removed already.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match self.set(Message::new(DELETE_LINK, 0, &header(0, 0, 0)).with_text(LINK_NAME, name)) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives an interface an address; one that is there is kept.
    pub(super) fn add_address(&self, index: u32, address: &IpNetwork) -> io::Result<()> {
        let ip = octets(address.ip());
        let message = Message::new(NEW_ADDRESS, flag::CREATE | flag::REPLACE, &address_header(index, address))
            .with(ADDRESS_LOCAL, &ip)
            .with(ADDRESS_ADDRESS, &ip)
            .with_u32(ADDRESS_FLAGS, if address.is_ipv4() { 0 } else { NO_DAD });
        self.set(message)
    }

    /// Takes an address from an interface.
    pub(super) fn remove_address(&self, index: u32, address: &IpNetwork) -> io::Result<()> {
        let header = address_header(index, address);
        self.set(Message::new(DELETE_ADDRESS, 0, &header).with(ADDRESS_LOCAL, &octets(address.ip())))
    }

    /// The addresses of an interface that reach further than its own link.
    pub(super) fn addresses(&self, index: u32) -> io::Result<Vec<IpNetwork>> {
        let answers = self.connection.dump(&Message::new(GET_ADDRESS, 0, &[0; ADDRESS_HEADER]))?;
        Ok(answers.iter().filter_map(|answer| address_of(answer, index)).collect())
    }

    /// Makes the default route of the gateway's family; one that is there is replaced.
    pub(super) fn add_default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let family = family(gateway.is_ipv4());
        let header = [family, 0, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, TYPE_UNICAST, 0, 0, 0, 0];
        let message = Message::new(NEW_ROUTE, flag::CREATE | flag::REPLACE, &header)
            .with(ROUTE_GATEWAY, &octets(gateway))
            .with_u32(ROUTE_INTERFACE, index);
        self.set(message)
    }

    fn set(&self, message: Message) -> io::Result<()> {
        self.connection.request(&message)
    }
}

/// `struct ifinfomsg`: the flags in `change` become those in `flags`.
fn header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(index: u32, address: &IpNetwork) -> [u8; ADDRESS_HEADER] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family(address.is_ipv4()), address.prefix(), 0, 0, a, b, c, d]
}

fn address_of(answer: &Answer, index: u32) -> Option<IpNetwork> {
    let header = answer.body.first_chunk::<ADDRESS_HEADER>()?;
    let of = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    if of != index || header[3] >= SCOPE_LINK {
        return None;
    }
    let attributes = answer.attributes(ADDRESS_HEADER);
    let value = |kind| attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value);
    let ip = value(ADDRESS_LOCAL).or_else(|| value(ADDRESS_ADDRESS))?;
    let ip = match ip.len() {
        4 => IpAddr::from(*ip.first_chunk::<4>()?),
        _ => IpAddr::from(*ip.first_chunk::<16>()?),
    };
    IpNetwork::new(ip, header[1]).ok()
}

fn link(answer: &Answer) -> Link {
    let mut link = Link::default();
    if let Some([_, _, _, _, a, b, c, d]) = answer.body.first_chunk::<8>() {
        link.index = u32::from_ne_bytes([*a, *b, *c, *d]);
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
