//! A connection after its upgrade: its two halves, and whether the client is still there.

use std::os::fd::AsFd as _;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use super::wire::{BoxRead, BoxWrite};

/// How often a client that has sent more than is read is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Sees a client hang up even while nothing is read from it, because a process does not take its input: the end of a
/// connection is otherwise only found behind all that was sent before it.
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
                // Readiness that nobody uses up stays, so this would spin without the pause.
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }
}

/// The halves of an upgraded connection; what was read with the request comes first.
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
