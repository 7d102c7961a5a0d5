//! Drops every TCP connection of the process's network: net.inet.tcp.pcblist lists them, net.inet.tcp.drop drops one,
//! as in tcpdrop(8).

use std::io;

use super::sys;

/// The limit of the list, in bytes: some 90,000 connections.
const LIST_LIMIT: usize = 64 << 20;
/// Offsets in `struct xtcpcb` (netinet/tcp_var.h): `struct in_conninfo`, and the state.
const CONNECTION: usize = 256;
const STATE: usize = 0x238;
/// Offsets in it (netinet/in_pcb.h): flags, ports, foreign and local address, scope.
const FLAGS: usize = CONNECTION;
const FOREIGN_PORT: usize = CONNECTION + 4;
const LOCAL_PORT: usize = CONNECTION + 6;
const FOREIGN: usize = CONNECTION + 8;
const LOCAL: usize = CONNECTION + 24;
const SCOPE: usize = CONNECTION + 40;
/// `INC_ISIPV6`.
const IS_IPV6: u8 = 1;
/// `TCPS_LISTEN`; states up to it have no peer.
const LISTEN: i32 = 1;
/// Length of `struct sockaddr_storage`.
const ADDRESS_LENGTH: usize = 128;

/// Drops them all. A connection that has ended meanwhile is no error.
pub(super) fn drop_all() -> io::Result<()> {
    let list = sys::sysctl("net.inet.tcp.pcblist", LIST_LIMIT)?;
    for connection in connections(&list) {
        match sys::set_sysctl("net.inet.tcp.drop", &connection) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

/// Decodes the list: each connection as two `struct sockaddr_storage`, foreign and local. Two `struct xinpgen` frame
/// the list; each element begins with its length.
fn connections(list: &[u8]) -> Vec<Vec<u8>> {
    let length_at = |offset: usize| {
        let bytes = list.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize)
    };
    let header = length_at(0);
    let (mut found, mut offset) = (Vec::new(), header);
    while header != 0 && length_at(offset) > header {
        let end = offset + length_at(offset);
        found.extend(list.get(offset..end).and_then(connection));
        offset = end;
    }
    found
}

fn connection(element: &[u8]) -> Option<Vec<u8>> {
    let state = i32::from_ne_bytes(*element.get(STATE..)?.first_chunk::<4>()?);
    if state <= LISTEN {
        return None;
    }
    let ipv6 = element.get(FLAGS)? & IS_IPV6 != 0;
    let mut both = socket_address(element, ipv6, FOREIGN_PORT, FOREIGN)?;
    both.extend(socket_address(element, ipv6, LOCAL_PORT, LOCAL)?);
    Some(both)
}

/// Encodes a `struct sockaddr_in` or `struct sockaddr_in6`, padded to a `struct sockaddr_storage`.
fn socket_address(element: &[u8], ipv6: bool, port: usize, address: usize) -> Option<Vec<u8>> {
    let port = element.get(port..port + 2)?;
    let address = element.get(address..address + 16)?;
    let mut bytes = Vec::with_capacity(ADDRESS_LENGTH);
    if ipv6 {
        bytes.extend([28, u8::try_from(libc::AF_INET6).ok()?]);
        bytes.extend(port);
        bytes.extend([0; 4]);
        bytes.extend(address);
        bytes.extend(element.get(SCOPE..SCOPE + 4)?);
    } else {
        bytes.extend([16, u8::try_from(libc::AF_INET).ok()?]);
        bytes.extend(port);
        bytes.extend(&address[12..]);
    }
    bytes.resize(ADDRESS_LENGTH, 0);
    Some(bytes)
}
