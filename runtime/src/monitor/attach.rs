//! The clients of a monitor: those that only ask, those that wait for the exit, and those attached to the streams. An attached
//! client gets every byte that the container writes from then on, through a pipe. While the pipe is full, the monitor reads no
//! more output, so nothing is lost or buffered without limit. A client without progress for ten seconds is cut off, so that it
//! blocks the container no longer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::Stream;
use super::protocol::Incoming;

/// How long an attached client may make no progress.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Option<UnixStream>,
    pub(super) incoming: Incoming,
    pub(super) attached: Option<Attached>,
}

/// The streams of an attached client.
#[derive(Debug)]
pub(super) struct Attached {
    /// Its input for the container.
    pub(super) stdin: Option<File>,
    /// Its output, by stream.
    pub(super) outputs: [Option<Tail>; 2],
}

/// One output stream of an attached client.
#[derive(Debug)]
pub(super) struct Tail {
    pipe: io::PipeWriter,
    /// Output that the pipe did not take yet.
    backlog: Vec<u8>,
    /// The time of its last progress.
    still_since: Instant,
}

impl Client {
    pub(super) fn new(connection: UnixStream) -> Self {
        Self { connection: Some(connection), incoming: Incoming::default(), attached: None }
    }

    /// Hangs up: its output ends, but its input so far is still delivered.
    pub(super) fn hang_up(&mut self) {
        self.connection = None;
        if let Some(attached) = &mut self.attached {
            attached.outputs = [None, None];
        }
    }

    /// Whether it can be forgotten.
    pub(super) fn is_gone(&self) -> bool {
        self.connection.is_none() && self.attached.as_ref().is_none_or(|attached| attached.stdin.is_none())
    }

    /// Whether output is left for it.
    pub(super) fn is_behind(&self) -> bool {
        self.tails().any(Tail::is_behind)
    }

    pub(super) fn is_behind_on(&self, stream: Stream) -> bool {
        self.attached
            .as_ref()
            .and_then(|attached| attached.outputs[stream as usize].as_ref())
            .is_some_and(Tail::is_behind)
    }

    /// Gives it output.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.on_tail(stream, |tail| tail.push(bytes));
    }

    /// Writes more of its backlog.
    pub(super) fn flush(&mut self, stream: Stream) {
        self.on_tail(stream, Tail::flush);
    }

    /// Ends the stream: once the client has read everything, it reads end-of-file.
    pub(super) fn end(&mut self, stream: Stream) {
        if !self.is_behind_on(stream)
            && let Some(attached) = &mut self.attached
        {
            attached.outputs[stream as usize] = None;
        }
    }

    /// The time until it must be cut off, while it makes no progress.
    pub(super) fn patience_left(&self) -> Option<Duration> {
        let behind = self.tails().filter(|tail| tail.is_behind());
        behind.map(|tail| PATIENCE.saturating_sub(tail.still_since.elapsed())).min()
    }

    fn tails(&self) -> impl Iterator<Item = &Tail> {
        self.attached.iter().flat_map(|attached| attached.outputs.iter().flatten())
    }

    fn on_tail(&mut self, stream: Stream, act: impl FnOnce(&mut Tail) -> io::Result<()>) {
        let Some(attached) = &mut self.attached else { return };
        let place = &mut attached.outputs[stream as usize];
        if let Some(tail) = place
            && act(tail).is_err()
        {
            // The client does not read this stream any more.
            *place = None;
        }
    }
}

impl Tail {
    pub(super) fn new(pipe: io::PipeWriter) -> io::Result<Self> {
        set_nonblocking(pipe.as_fd())?;
        Ok(Self { pipe, backlog: Vec::new(), still_since: Instant::now() })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_behind() {
            self.backlog.extend_from_slice(bytes);
            return Ok(());
        }
        let taken = write_some(&mut self.pipe, bytes)?;
        if taken < bytes.len() {
            self.backlog = bytes[taken..].to_vec();
            self.still_since = Instant::now();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let taken = write_some(&mut self.pipe, &self.backlog)?;
        if taken == self.backlog.len() {
            self.backlog = Vec::new();
        } else if taken > 0 {
            self.backlog.drain(..taken);
            self.still_since = Instant::now();
        }
        Ok(())
    }
}

/// Writes until the pipe is full.
pub(super) fn write_some(pipe: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match pipe.write(&bytes[taken..]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Reads the available bytes: None while there are none, 0 at the end. A terminal whose other side is closed fails with EIO.
pub(super) fn read_some(pipe: &mut impl Read, chunk: &mut [u8]) -> Option<usize> {
    match pipe.read(chunk) {
        Ok(count) => Some(count),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        Err(_) => Some(0),
    }
}

pub(super) fn set_nonblocking(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::Tail;

    #[test]
    fn what_a_pipe_does_not_take_is_kept_in_order() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut tail = Tail::new(writer).unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        bytes.chunks(16 << 10).for_each(|chunk| tail.push(chunk).unwrap());
        assert!(tail.is_behind());
        let mut got = Vec::new();
        let mut chunk = [0u8; 4096];
        while got.len() < bytes.len() {
            let count = reader.read(&mut chunk).unwrap();
            got.extend_from_slice(&chunk[..count]);
            tail.flush().unwrap();
        }
        assert!(got == bytes && !tail.is_behind());
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut tail = Tail::new(writer).unwrap();
        drop(reader);
        assert!(tail.push(b"x").is_err());
    }
}
