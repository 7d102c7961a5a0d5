//! Routes to pods by a routing socket, route(4): rtnetlink(4) has no source address (`RTA_PREFSRC`), and the host's end
//! of a pod's interface has no address of its own to take.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

/// `AF_ROUTE` and `AF_LINK`, sys/socket.h.
const AF_ROUTE: i32 = 17;
const AF_LINK: u8 = 18;
/// `RTM_VERSION`, `RTM_ADD`, `RTM_DELETE`, net/route.h.
const VERSION: u8 = 5;
const ADD: u8 = 1;
const DELETE: u8 = 2;
/// `RTF_UP | RTF_HOST | RTF_STATIC`.
const FLAGS: i32 = 0x1 | 0x4 | 0x800;
/// `RTA_DST | RTA_GATEWAY | RTA_IFP | RTA_IFA`. Without the third the interface would be that of the fourth.
const ADDRESSES: i32 = 0x1 | 0x2 | 0x10 | 0x20;
/// Bytes of `struct rt_msghdr` on a 64-bit machine, net/route.h of FreeBSD 14.3 and 15.1.
const HEADER_LENGTH: usize = 152;
/// Bytes of `struct sockaddr_dl`; a routing socket pads addresses to eight.
const LINK_LENGTH: u8 = 54;

/// Sets the route to an address on the link of an interface; what this machine sends there has the source `source`, an
/// address of another interface. Idempotent.
pub(super) fn set(to: IpAddr, interface: u32, source: IpAddr) -> io::Result<()> {
    let mut socket = Socket::new(Domain::from(AF_ROUTE), Type::RAW, None)?;
    let index = u16::try_from(interface).map_err(io::Error::other)?;
    let message = |kind| message(kind, to, index, source);
    match socket.write_all(&message(DELETE)) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
        _ => (),
    }
    socket.write_all(&message(ADD))
}

/// Opens a socket that is told of every change of interfaces, addresses and routes.
pub(super) fn subscribe() -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::from(AF_ROUTE), Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn message(kind: u8, to: IpAddr, index: u16, source: IpAddr) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LENGTH];
    bytes[2..4].copy_from_slice(&[VERSION, kind]);
    bytes[8..12].copy_from_slice(&FLAGS.to_ne_bytes());
    bytes[12..16].copy_from_slice(&ADDRESSES.to_ne_bytes());
    add_address(&mut bytes, to);
    for _ in ["gateway", "interface"] {
        let start = bytes.len();
        bytes.resize(start + usize::from(LINK_LENGTH).next_multiple_of(8), 0);
        bytes[start..start + 2].copy_from_slice(&[LINK_LENGTH, AF_LINK]);
        bytes[start + 2..start + 4].copy_from_slice(&index.to_ne_bytes());
    }
    add_address(&mut bytes, source);
    let length = u16::try_from(bytes.len()).expect("four addresses are short");
    bytes[..2].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// Adds a `struct sockaddr_in` or `sockaddr_in6`.
fn add_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => {
            bytes.extend([16, 2, 0, 0]);
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([28, 28, 0, 0, 0, 0, 0, 0]);
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
    }
}
