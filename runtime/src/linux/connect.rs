//! A connection to a port on a pod's loopback. A thread enters the pod's network for it (setns(2) moves only the thread); the
//! socket stays in that network.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use host::Place;
use nix::sched::{CloneFlags, setns};

use crate::Error;

/// The limit for a connection: loopback accepts or refuses at once, unless the listener's queue is full.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to 127.0.0.1, then to ::1.
pub(super) fn connect(place: &Place, port: u16) -> Result<OwnedFd, Error> {
    let unavailable = |error: io::Error| Error::Unavailable {
        operation: format!("cannot connect to port {port} of the pod"),
        source: error.into(),
    };
    let connected = std::thread::scope(|scope| scope.spawn(|| enter_and_connect(place, port)).join());
    let connected = connected.map_err(|_| Error::failed("cannot connect to a pod")("the thread has panicked"))?;
    connected.map(OwnedFd::from).map_err(unavailable)
}

fn enter_and_connect(place: &Place, port: u16) -> io::Result<TcpStream> {
    if let Place::Netns(path) = place {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    let to = |address: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(address, port), TIMEOUT);
    to(Ipv4Addr::LOCALHOST.into()).or_else(|first| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| first))
}
