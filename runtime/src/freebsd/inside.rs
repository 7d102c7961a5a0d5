//! Short-lived helpers that attach to a pod's jail, which owns its network: one opens a connection and passes it out, one sets
//! kernel parameters, one runs pfctl(8). Each is a process, `cellblock-monitor hold` with a command of this backend: a thread of the server could not
//! leave the jail again.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use host::run::{RunError, Tool};
use host::worker::Workers;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::sys::{jail, process, sysctl};
use super::sysctls;
use crate::Error;
use crate::monitor::WORKER;
use crate::spec::Filter;

/// The commands of the helpers.
const CONNECT: &str = "freebsd-connect";
const SYSCTL: &str = "freebsd-sysctl";
const FILTER: &str = "freebsd-filter";
/// The limit for a connection to the pod's loopback.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// The limit for a helper.
const HELPER_WAIT: Duration = Duration::from_secs(20);
/// The limit on a helper's error, in bytes.
const REASON_LENGTH: u64 = 4096;

/// The loopback addresses, in the order of the attempts.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Connects to a port on the loopback of this process' network.
pub(super) fn connect_here(port: u16) -> io::Result<OwnedFd> {
    let mut refused = None;
    for address in LOOPBACK {
        let connected = TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_WAIT);
        // A refused connection is writable just before it hangs up (soisdisconnected in kern/uipc_socket.c): then the call
        // above takes it for connected.
        let connected = connected.and_then(|connection| match connection.take_error()? {
            Some(error) => Err(error),
            None => Ok(connection.into()),
        });
        match connected {
            Ok(connection) => return Ok(connection),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// Connects to a port in a pod's jail.
///
/// # Errors
/// [`Error::Unavailable`] when nothing listens.
pub(super) fn connect(workers: &Workers, jail: &str, port: u16) -> Result<OwnedFd, Error> {
    let operation = format!("cannot connect to port {port} in jail {jail}");
    let unavailable = |operation: String, source: io::Error| Error::Unavailable { operation, source: source.into() };
    match help(workers, &[CONNECT, jail, &port.to_string()]) {
        Ok((Some(descriptor), _)) => Ok(descriptor),
        Ok((None, reason)) => Err(unavailable(operation, io::Error::other(reason))),
        Err(error) => Err(Error::failed(operation)(error)),
    }
}

/// Sets a kernel parameter of a pod's network.
///
/// # Errors
/// [`Error::Invalid`] with the kernel's error.
pub(super) fn set(workers: &Workers, jail: &str, name: &str, value: &str) -> Result<(), Error> {
    match help(workers, &[SYSCTL, jail, name, value]) {
        Ok((_, reason)) if reason.is_empty() => Ok(()),
        Ok((_, reason)) => Err(Error::invalid("sysctls", format!("{name}={value}: {reason}"))),
        Err(error) => Err(Error::failed(format!("cannot set {name} in jail {jail}"))(error)),
    }
}

/// Loads a file of rules in the root of a pod's jail, which has pfctl(8) now, and enables the pod's packet filter.
///
/// # Errors
/// [`Error::Invalid`] with pfctl's errors.
pub(super) fn filter(workers: &Workers, jail: &str, file: &str, filter: &Filter) -> Result<(), Error> {
    match help(workers, &[FILTER, jail, file]) {
        Ok((_, reason)) if reason.is_empty() => Ok(()),
        Ok((_, reason)) => Err(Error::invalid("filter", reason.replace(&format!("/{file}"), &filter.name))),
        Err(error) => Err(Error::failed(format!("cannot run pfctl in jail {jail}"))(error)),
    }
}

/// Runs a helper to its end. Returns the descriptor that it passes out, and its error, or an empty text.
fn help(workers: &Workers, words: &[&str]) -> io::Result<(Option<OwnedFd>, String)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(HELPER_WAIT))?;
    let mut helper = workers.spawn(WORKER, words, theirs.into(), None)?;
    let answer = answer(&ours).map_err(host::late("the helper"));
    if answer.is_ok() {
        helper.wait()?;
    } else {
        host::worker::end(helper);
    }
    answer
}

fn answer(mut socket: &UnixStream) -> io::Result<(Option<OwnedFd>, String)> {
    let mut byte = [0u8];
    let mut vector = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the helper ended without an answer"));
    }
    let descriptor = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(received) => received.first().copied().map(process::adopt),
        _ => None,
    });
    let mut reason = String::new();
    socket.by_ref().take(REASON_LENGTH).read_to_string(&mut reason)?;
    Ok((descriptor, reason))
}

/// Runs a helper, given the arguments of the worker; None: they are no helper's.
pub(super) fn main(args: &[OsString]) -> Option<ExitCode> {
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let done = match words.as_slice() {
        [CONNECT, jail, port] => {
            attach(jail).and_then(|()| connect_here(port.parse().map_err(io::Error::other)?)).map(Some)
        }
        [FILTER, jail, file] => attach(jail).and_then(|()| load_here(file)).map(|()| None),
        [SYSCTL, jail, name, value] => attach(jail).and_then(|()| set_here(name, value)).map(|()| None),
        _ => return None,
    };
    let (descriptor, reason) = done.map_or_else(|error| (None, error.to_string()), |passed| (passed, String::new()));
    let rights: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let control = if rights.is_empty() { Vec::new() } else { vec![ControlMessage::ScmRights(&rights)] };
    let text = [&b"a"[..], reason.as_bytes()].concat();
    let stdin = io::stdin();
    let sent = sendmsg::<()>(stdin.as_fd().as_raw_fd(), &[IoSlice::new(&text)], &control, MsgFlags::empty(), None);
    Some(if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Enters a jail with only the standard streams open.
fn attach(name: &str) -> io::Result<()> {
    process::close_from(3);
    let found = jail::find(name)?.ok_or(io::ErrorKind::NotFound)?;
    found.attach()
}

fn load_here(file: &str) -> io::Result<()> {
    let pfctl = |args: &[&str]| {
        Tool::new("/sbin/pfctl").args(args).timeout(HELPER_WAIT).run().map_err(|error| match error {
            RunError::Failed { stderr, .. } => io::Error::other(stderr),
            error => io::Error::other(error),
        })
    };
    pfctl(&["-q", "-f", &format!("/{file}")])?;
    // Enabling it twice is an error.
    let status = pfctl(&["-q", "-s", "info"])?.stdout;
    if String::from_utf8_lossy(&status).contains("Status: Enabled") { Ok(()) } else { pfctl(&["-q", "-e"]).map(drop) }
}

fn set_here(name: &str, value: &str) -> io::Result<()> {
    let size = sysctl::get(name)?.len();
    let encoded = sysctls::encode(value, size).ok_or_else(|| io::Error::other("it is not a number"))?;
    sysctl::set(name, &encoded)
}
