//! The protocol of a monitor's socket: one line of JSON per message. The monitor greets with its version; then every request
//! gets one reply. A monitor outlives the server that started it, so newer servers must speak to older monitors: fields and
//! requests are only added, unknown fields are ignored, and an unknown request gets an error and changes nothing. Descriptors
//! travel with the first byte of their message (SCM_RIGHTS, unix(4), unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::record::ExitRecord;
use super::sys;
use crate::Error;

/// The version that this code speaks.
pub(super) const VERSION: u32 = 1;
/// The limit on a request to a monitor and on a reply, in bytes: they hold numbers and an error's text.
pub(super) const MESSAGE_LIMIT: usize = 16 << 10;
/// The limit on a request to launch a process, in bytes: its arguments (2 MiB on Linux).
pub(super) const LAUNCH_LIMIT: usize = 8 << 20;

/// The monitor's first line on a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) version: u32,
}

/// The server's requests.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Request {
    /// The container's state. The reply comes once it has been started.
    State,
    /// The reply comes at once; the connection reads end-of-file when the exit is recorded.
    Wait,
    /// Sends a signal to the first process.
    Signal { number: i32 },
    /// Kills every process.
    Kill,
    /// Changes the size of the terminal.
    Resize { columns: u16, rows: u16 },
    /// Closes the log and opens its path again.
    ReopenLog,
    /// Attaches to the streams: the reply carries a descriptor for each stream that exists, in the order stdin (if requested),
    /// stdout, stderr.
    Attach { stdin: bool },
    /// For a `monitor exec` only: starts a process in the container of a directory, with the descriptors of this message.
    Launch { directory: PathBuf, args: Vec<String>, tty: bool, stdin: bool },
}

/// The monitor's replies.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Reply {
    Done,
    State {
        pid: i32,
        started_ns: u64,
        #[serde(default)]
        exit: Option<ExitRecord>,
    },
    Attached {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Failed(Failure),
}

/// An error on the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    kind: Kind,
    text: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    exit_code: i32,
    /// Whether it is [exhaustion](host::is_exhausted).
    #[serde(default)]
    exhausted: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Command,
    Conflict,
    Invalid,
    Failed,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        let (kind, subject, text, exit_code) = match error {
            Error::Command { program, reason, exit_code } => {
                (Kind::Command, program.clone(), reason.clone(), *exit_code)
            }
            Error::Conflict { what } => (Kind::Conflict, String::new(), what.clone(), 0),
            Error::Invalid { field, reason } => (Kind::Invalid, field.clone(), reason.clone(), 0),
            other => (Kind::Failed, String::new(), host::chain(other), 0),
        };
        Self { kind, text, subject, exit_code, exhausted: host::is_exhausted(error) }
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self { kind: Kind::Conflict, text: text.into(), subject: String::new(), exit_code: 0, exhausted: false }
    }

    pub(super) fn into_error(self, operation: &str) -> Error {
        match self.kind {
            Kind::Command => Error::Command { program: self.subject, reason: self.text, exit_code: self.exit_code },
            Kind::Conflict => Error::conflict(self.text),
            Kind::Invalid => Error::invalid(self.subject, self.text),
            Kind::Failed if self.exhausted => Error::failed(operation)(host::Exhausted(self.text)),
            Kind::Failed => Error::failed(operation)(self.text),
        }
    }
}

/// Sends one message, its descriptors with its first byte.
pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut sent = 0;
    while sent < line.len() {
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if sent == 0 && !raw.is_empty() { &rights[..] } else { &[] };
        let vector = [IoSlice::new(&line[sent..])];
        match sendmsg::<()>(socket.as_raw_fd(), &vector, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(count) => sent += count,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A partly received message with its descriptors.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    buffer: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The result of one read from a connection.
pub(super) enum Arrived {
    /// A whole message without its line feed, and its descriptors.
    Message(Vec<u8>, Vec<OwnedFd>),
    /// More of the message is to come.
    Partly,
    /// The other side has closed.
    End,
}

impl Incoming {
    /// Reads once. The peers take turns, so nothing follows a line feed.
    pub(super) fn read(&mut self, socket: BorrowedFd<'_>, limit: usize) -> io::Result<Arrived> {
        let mut chunk = [0u8; 4096];
        let count = match sys::receive(socket, &mut IoSliceMut::new(&mut chunk), &mut self.descriptors) {
            Ok(0) => return Ok(Arrived::End),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(Arrived::Partly);
            }
            Err(error) => return Err(error),
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        if self.buffer.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of more than {limit} bytes")));
        }
        if self.buffer.last() != Some(&b'\n') {
            return Ok(Arrived::Partly);
        }
        self.buffer.pop();
        Ok(Arrived::Message(std::mem::take(&mut self.buffer), std::mem::take(&mut self.descriptors)))
    }
}

/// Receives and decodes one message, waiting at most `timeout` between two reads.
pub(super) fn receive<T: for<'de> Deserialize<'de>>(
    socket: BorrowedFd<'_>,
    limit: usize,
    timeout: Duration,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut incoming = Incoming::default();
    loop {
        if !host::wait::readable(socket, timeout)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match incoming.read(socket, limit)? {
            Arrived::Message(text, descriptors) => return Ok((serde_json::from_slice(&text)?, descriptors)),
            Arrived::Partly => {}
            Arrived::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::{Reply, Request, receive, send};

    const WAIT: std::time::Duration = std::time::Duration::from_secs(5);

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (near, far) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let args = vec!["x".repeat(100_000)];
        let request = Request::Launch { directory: "/d".into(), args, tty: false, stdin: true };
        let sender = std::thread::spawn(move || send(near.as_fd(), &request, &[reader.as_fd(), writer.as_fd()]));
        let (got, descriptors) = receive::<Request>(far.as_fd(), 1 << 20, WAIT).unwrap();
        sender.join().unwrap().unwrap();
        assert!(matches!(got, Request::Launch { args, .. } if args[0].len() == 100_000));
        assert_eq!(descriptors.len(), 2);
    }

    #[test]
    fn an_unknown_field_is_ignored_and_an_unknown_request_is_an_error() {
        assert!(serde_json::from_str::<Request>(r#"{"do":"signal","number":9,"later":1}"#).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"do":"freeze"}"#).is_err());
        assert!(serde_json::from_str::<Reply>(r#"{"is":"state","pid":1,"started_ns":2}"#).is_ok());
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let (near, far) = UnixStream::pair().unwrap();
        send(near.as_fd(), &"x".repeat(5000), &[]).unwrap();
        assert!(receive::<String>(far.as_fd(), 4000, WAIT).is_err());
    }
}
