//! The sockets on the gateways' addresses.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Settings;

/// The backlog of a listening socket, in connections.
const BACKLOG: i32 = 64;
/// How long an address may take to come: that of a bridge is not usable while the kernel looks for duplicates (RFC 4862, 5.4).
const ARRIVAL: Duration = Duration::from_secs(3);
/// The interval of looking for it.
const INTERVAL: Duration = Duration::from_millis(50);

/// Bound sockets that do not block.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: Vec<TcpListener>,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({kind})")]
pub(crate) struct Unbound {
    address: SocketAddr,
    kind: &'static str,
    #[source]
    source: io::Error,
}

impl Sockets {
    /// Binds the port on every address, by UDP and by TCP.
    pub(crate) fn bind(settings: &Settings) -> Result<Self, Unbound> {
        let mut sockets = Self::default();
        for address in &settings.addresses {
            let address = SocketAddr::new(*address, settings.port);
            let unbound = |kind| move |source| Unbound { address, kind, source };
            sockets.udp.push(patiently(|| bind(address, Type::DGRAM)).map_err(unbound("UDP"))?.into());
            sockets.tcp.push(patiently(|| bind(address, Type::STREAM)).map_err(unbound("TCP"))?.into());
        }
        Ok(sockets)
    }
}

/// Tries again while the address is missing.
fn patiently(bind: impl Fn() -> io::Result<Socket>) -> io::Result<Socket> {
    let started = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && started.elapsed() < ARRIVAL => {
                std::thread::sleep(INTERVAL);
            }
            bound => return bound,
        }
    }
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let is_udp = kind == Type::DGRAM;
    let protocol = if is_udp { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // For TCP it allows a port with connections in TIME_WAIT; for UDP it would allow two owners.
    if !is_udp {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if !is_udp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}
