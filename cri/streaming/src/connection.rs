//! An upgraded connection: its two halves, and the detection of a client that hangs up.

use std::os::fd::AsFd as _;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use super::wire::{BoxRead, BoxWrite};

/// How often to look for a hang-up while unread data keep the socket readable.
const LOOK: Duration = Duration::from_secs(1);

/// Detects that a client hangs up even while nothing is read from it, because a process does not take its input: read(2)
/// reports the end of a connection only after all data before it.
#[derive(Debug)]
pub(super) struct Hangup(pipe::Receiver);

impl Hangup {
    /// Watches a socket, which stays open until this is dropped.
    ///
    /// # Errors
    /// No more descriptors.
    pub(super) fn of(socket: &TcpStream) -> std::io::Result<Self> {
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(socket.as_fd().try_clone_to_owned()?)?))
    }

    /// Returns once the client has hung up.
    pub(super) async fn happened(&self) {
        loop {
            match self.0.ready(Interest::READABLE).await {
                // Nobody reads, so the readiness stays: without the pause this would spin.
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }
}

/// Splits an upgraded connection; bytes that arrived with the request are read first.
pub(super) fn split(upgraded: Upgraded) -> (BoxRead, BoxWrite) {
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let (read, write) = parts.io.into_inner().into_split();
            if parts.read_buf.is_empty() {
                return (Box::new(read), Box::new(write));
            }
            (Box::new(std::io::Cursor::new(parts.read_buf).chain(read)), Box::new(write))
        }
        Err(upgraded) => {
            let (read, write) = tokio::io::split(TokioIo::new(upgraded));
            (Box::new(read), Box::new(write))
        }
    }
}
