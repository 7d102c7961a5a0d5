//! The inside of a pod's vnet. A socket belongs to the vnet that it was opened in, and a process can enter a jail but not
//! leave it: so a worker enters, opens sockets, passes them out and ends, and from then on the vnet is configured from
//! here. The same worker drops the vnet's TCP connections, since sysctl(3) goes by the process and not by a socket.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use host::worker::Workers;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use socket2::{Domain, Socket, Type};

use super::{AF_NETLINK, NETLINK_ROUTE, sys, tcp};
use crate::Error;
use crate::links::Links;
use crate::netlink::Connection;

/// The worker's name.
pub(super) const WORKER: &str = "vnet";
/// Opens sockets and passes them out.
const OPEN: &str = "open";
/// Drops every TCP connection.
const DROP: &str = "drop";
/// Sockets that are passed out: of the families INET, INET6 and NETLINK.
const SOCKETS: usize = 3;
/// How long the worker may take: it makes a handful of system calls.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sockets of a vnet.
pub(super) struct Vnet {
    pub(super) inet: Socket,
    pub(super) inet6: Socket,
    pub(super) links: Links,
}

impl Vnet {
    /// The vnet that this process is in: the node's.
    pub(super) fn of_the_node() -> io::Result<Self> {
        Self::new(open_sockets()?)
    }

    /// The vnet of a jail.
    pub(super) fn of_jail(workers: &Workers, name: &str) -> Result<Self, Error> {
        let failed = || format!("cannot enter the network of jail {name}");
        let jail = jail_id(name)?;
        run(workers, OPEN, jail)
            .and_then(|sockets| Self::new(sockets.try_into().map_err(|_| few())?))
            .map_err(Error::failed(failed()))
    }

    fn new([inet, inet6, netlink]: [Socket; SOCKETS]) -> io::Result<Self> {
        Ok(Self { inet, inet6, links: Links::new(Connection::from_socket(netlink)?) })
    }
}

/// Drops the TCP connections of a jail's vnet, so that none of them keeps the jail dying; a jail that is gone has none.
pub(super) fn drop_connections(workers: &Workers, name: &str) -> Result<(), Error> {
    match jail_id(name) {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(jail) => {
            let failed = format!("cannot drop the connections of jail {name}");
            run(workers, DROP, jail).map(drop).map_err(Error::failed(failed))
        }
    }
}

/// The number of a jail.
pub(super) fn jail_id(name: &str) -> Result<i32, Error> {
    sys::jail_id(name).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound { what: format!("jail {name}") },
        _ => Error::failed(format!("cannot look up jail {name}"))(error),
    })
}

fn few() -> io::Error {
    io::Error::other("the worker passed too few sockets")
}

/// Runs the worker in a jail and returns the sockets that it passed out.
fn run(workers: &Workers, word: &str, jail: i32) -> io::Result<Vec<Socket>> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(TIMEOUT))?;
    let mut child = workers.spawn(WORKER, &[word, &jail.to_string()], theirs.into(), None)?;
    let answer = receive(&ours);
    if answer.is_err() {
        // It hangs or has ended; either way it is of no use any more.
        let _ = child.kill();
    }
    child.wait()?;
    let (text, sockets) = answer?;
    if text == "ok" { Ok(sockets) } else { Err(io::Error::other(text)) }
}

/// Reads the worker's one message: `ok` with sockets, or what went wrong.
fn receive(from: &UnixStream) -> io::Result<(String, Vec<Socket>)> {
    let mut text = [0; 512];
    let mut control = nix::cmsg_space!([RawFd; SOCKETS]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut sockets = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            sockets.extend(descriptors.into_iter().map(|descriptor| Socket::from(sys::own(descriptor))));
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Err(io::Error::other("the worker ended without a word"));
    }
    Ok((String::from_utf8_lossy(&text[..length]).into_owned(), sockets))
}

/// The worker's entry: `vnet open JID` or `vnet drop JID`, with a socket as standard input.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let (word, jail) = match words[..] {
        [word, jail] => (word, jail.parse::<i32>()),
        _ => return ExitCode::from(64),
    };
    let done = jail.map_err(io::Error::other).and_then(sys::jail_attach).and_then(|()| match word {
        OPEN => open_sockets().map(|sockets| sockets.map(OwnedFd::from).into()),
        DROP => tcp::drop_all().map(|()| Vec::new()),
        _ => Err(io::Error::other(format!("unknown word {word}"))),
    });
    match done.map_or_else(|error| send(&error.to_string(), &[]), |sockets: Vec<OwnedFd>| send("ok", &sockets)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn send(text: &str, sockets: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control: &[ControlMessage] = if descriptors.is_empty() { &[] } else { &rights };
    let stdin = io::stdin().as_raw_fd();
    sendmsg::<UnixAddr>(stdin, &[IoSlice::new(text.as_bytes())], control, MsgFlags::empty(), None)?;
    Ok(())
}

fn open_sockets() -> io::Result<[Socket; SOCKETS]> {
    Ok([
        Socket::new(Domain::IPV4, Type::DGRAM, None)?,
        Socket::new(Domain::IPV6, Type::DGRAM, None)?,
        Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(NETLINK_ROUTE.into()))?,
    ])
}
