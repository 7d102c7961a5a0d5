//! Opens the listener's sockets, and checks whether a host port is free.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Socket, Type};

use super::Relay;
use crate::{HostPort, Protocol};

/// The backlog of a listening socket, in connections.
const BACKLOG: i32 = 64;

/// A listening socket and its target.
#[derive(Debug)]
pub(super) enum Listening {
    /// Connections.
    Tcp(TcpListener, SocketAddr),
    /// Datagrams.
    Udp(UdpSocket, SocketAddr),
}

/// Opens the socket of a relay; None if the node lacks the address (IPv6 disabled).
pub(super) fn open(relay: &Relay) -> io::Result<Option<Listening>> {
    let (kind, target) = (relay.protocol, relay.target);
    match bind(kind, relay.listen) {
        Ok(socket) if kind == Protocol::Tcp => {
            socket.listen(BACKLOG)?;
            Ok(Some(Listening::Tcp(socket.into(), target)))
        }
        Ok(socket) => Ok(Some(Listening::Udp(socket.into(), target))),
        Err(error) if is_no_such_address(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Binds the port and closes it: [`io::ErrorKind::AddrInUse`] if a process of the node has it.
pub(crate) fn probe(port: &HostPort) -> io::Result<()> {
    // Loopback separately: FreeBSD lets the wildcard be bound while a process has the port on one address.
    let all: [IpAddr; 4] = [
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let covered = |address: &IpAddr| match port.host_ip {
        Some(one) if one.is_unspecified() => one.is_ipv4() == address.is_ipv4(),
        one => one.is_none(),
    };
    let addresses: Vec<IpAddr> = all.into_iter().filter(covered).chain(port.only_on()).collect();
    for address in addresses {
        match bind(port.protocol, SocketAddr::new(address, port.host_port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // A missing address or protocol: no process listens there.
            _ => (),
        }
    }
    Ok(())
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        Protocol::Sctp => (Type::STREAM, socket2::Protocol::SCTP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(number))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // For TCP it allows a port with connections in TIME_WAIT; for UDP it would allow two owners.
    if protocol != Protocol::Udp {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn is_no_such_address(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, UdpSocket};

    use super::probe;
    use crate::{HostPort, Protocol};

    #[test]
    fn a_port_that_a_process_has_is_not_free() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (protocol, number) in
            [(Protocol::Tcp, tcp.local_addr().unwrap().port()), (Protocol::Udp, udp.local_addr().unwrap().port())]
        {
            let port = HostPort { protocol, host_ip: None, host_port: number, container_port: 1 };
            assert_eq!(probe(&port).unwrap_err().kind(), ErrorKind::AddrInUse);
        }
        let number = tcp.local_addr().unwrap().port();
        drop(tcp);
        let port = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: number, container_port: 1 };
        probe(&port).unwrap();
    }
}
