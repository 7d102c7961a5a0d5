//! Enters a pod's vnet. A socket belongs to the vnet it was opened in, and a process can enter a jail but not leave it:
//! a worker enters, opens sockets, passes them out and ends; afterwards the server configures the vnet through them.
//! The same worker drops the vnet's TCP connections, since sysctl(3) applies to the process and not to a socket.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitCode};
use std::time::Duration;

use host::worker::Workers;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use socket2::{Domain, Socket, Type};

use super::{AF_NETLINK, NETLINK_ROUTE, ipfw, sys, tcp};
use crate::Error;
use crate::links::Links;
use crate::netlink::Connection;

/// The word to take the vnet out of ipfw, to open sockets and to pass them out.
const OPEN: &str = "open";
/// The word to drop every TCP connection.
const DROP: &str = "drop";
/// Sockets per vnet: INET, INET6 and NETLINK.
const SOCKETS: usize = 3;
/// The worker's time limit: it makes a handful of system calls.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A vnet being entered: the worker runs, and [`Entry::vnet`] waits for its sockets.
pub(super) struct Entry {
    jail: String,
    worker: Option<Worker>,
    entered: Option<Vnet>,
}

/// A running worker and the socket for its answer.
struct Worker {
    worker: Child,
    answer: UnixStream,
}

pub(super) struct Vnet {
    pub(super) inet: Socket,
    pub(super) inet6: Socket,
    pub(super) links: Links,
}

impl Vnet {
    /// Opens sockets in this process's vnet: the node's.
    pub(super) fn open_node() -> io::Result<Self> {
        Self::new(open_sockets()?)
    }

    fn new([inet, inet6, netlink]: [Socket; SOCKETS]) -> io::Result<Self> {
        Ok(Self { inet, inet6, links: Links::new(Connection::from_socket(netlink)?) })
    }
}

impl Entry {
    /// Starts to enter a jail's vnet.
    pub(super) fn begin(workers: &Workers, jail: &str) -> Result<Self, Error> {
        let number = jail_id(jail)?;
        let worker = Worker::start(workers, OPEN, number).map_err(failed(jail))?;
        Ok(Self { jail: jail.to_owned(), worker: Some(worker), entered: None })
    }

    /// Waits for the sockets on the first call.
    pub(super) fn vnet(&mut self) -> Result<&Vnet, Error> {
        if let Some(worker) = self.worker.take() {
            let vnet = worker.finish().and_then(|sockets| Vnet::new(sockets.try_into().map_err(|_| few())?));
            self.entered = Some(vnet.map_err(failed(&self.jail))?);
        }
        let gone = || failed(&self.jail)(io::Error::other("an earlier attempt failed"));
        self.entered.as_ref().ok_or_else(gone)
    }

    pub(super) fn into_vnet(mut self) -> Result<Vnet, Error> {
        self.vnet()?;
        Ok(self.entered.take().expect("it was entered just now"))
    }
}

/// Reaps the worker if its sockets were never needed.
impl Drop for Entry {
    fn drop(&mut self) {
        let _sockets = self.worker.take().map(Worker::finish);
    }
}

impl From<Vnet> for Entry {
    fn from(vnet: Vnet) -> Self {
        Self { jail: String::new(), worker: None, entered: Some(vnet) }
    }
}

fn failed(jail: &str) -> impl FnOnce(io::Error) -> Error {
    Error::failed(format!("cannot enter the network of jail {jail}"))
}

/// Drops the TCP connections of a jail's vnet, which would keep the jail dying. A missing jail has none.
pub(super) fn drop_connections(workers: &Workers, name: &str) -> Result<(), Error> {
    match jail_id(name) {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(jail) => {
            let failed = format!("cannot drop the connections of jail {name}");
            let dropped = Worker::start(workers, DROP, jail).and_then(Worker::finish);
            dropped.map(drop).map_err(Error::failed(failed))
        }
    }
}

/// Returns a jail's id; [`Error::NotFound`] if missing.
pub(super) fn jail_id(name: &str) -> Result<i32, Error> {
    sys::jail_id(name).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound { what: format!("jail {name}") },
        _ => Error::failed(format!("cannot look up jail {name}"))(error),
    })
}

fn few() -> io::Error {
    io::Error::other("the worker passed too few sockets")
}

impl Worker {
    fn start(workers: &Workers, word: &str, jail: i32) -> io::Result<Self> {
        let (answer, theirs) = UnixStream::pair()?;
        answer.set_read_timeout(Some(TIMEOUT))?;
        let worker = workers.spawn(crate::vnet::WORKER, &[word, &jail.to_string()], theirs.into(), None)?;
        Ok(Self { worker, answer })
    }

    /// Waits for the worker and returns its sockets.
    fn finish(mut self) -> io::Result<Vec<Socket>> {
        let answer = receive(&self.answer).map_err(host::late("the worker"));
        if answer.is_err() {
            // It hangs or has ended; kill it.
            host::worker::end(self.worker);
        } else {
            self.worker.wait()?;
        }
        let (text, sockets) = answer?;
        if text == "ok" { Ok(sockets) } else { Err(io::Error::other(text)) }
    }
}

/// Reads the worker's message: `ok` with sockets, or an error text.
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
        return Err(io::Error::other("the worker ended without an answer"));
    }
    Ok((String::from_utf8_lossy(&text[..length]).into_owned(), sockets))
}

/// Runs the worker: `open JID` or `drop JID`, with a socket as standard input.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let (word, jail) = match words[..] {
        [word, jail] => (word, jail.parse::<i32>()),
        _ => return ExitCode::from(64),
    };
    let done = jail.map_err(io::Error::other).and_then(sys::jail_attach).and_then(|()| match word {
        OPEN => ipfw::open().and_then(|()| open_sockets()).map(|sockets| sockets.map(OwnedFd::from).into()),
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
