//! Files in pieces: a stream of messages for a thread that reads, and what a thread writes as a stream of messages.

use std::io::{self, BufWriter, Cursor, Read, Write};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use super::extensions::gone;
use super::{Parts, received};
use crate::error::Error;
use crate::state::node::Node;

/// Bytes of a message.
const CHUNK: usize = 256 << 10;
/// Messages that wait for the client or the disk.
const WAITING: usize = 8;

/// Sends what `write` writes, each piece made a message by `message`. It fails when the client goes away.
pub(super) fn send<M: Send + 'static>(
    node: &Arc<Node>,
    message: fn(Vec<u8>) -> M,
    write: impl FnOnce(&Node, &mut dyn Write) -> Result<(), image::Error> + Send + 'static,
) -> Parts<M> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let node = node.clone();
    tokio::spawn(async move {
        let pieces = Pieces { sender: sender.clone(), message };
        let written = node
            .block(move |node| {
                let mut writer = BufWriter::with_capacity(CHUNK, pieces);
                write(node, &mut writer)?;
                writer.flush().map_err(image::Error::io("cannot send"))
            })
            .await;
        if let Err(error) = written {
            // A client that is gone needs no reason.
            drop(sender.send(Err(Status::from(Error::from(error)))).await);
        }
    });
    received(receiver)
}

/// Sends what is written as messages.
struct Pieces<M> {
    sender: mpsc::Sender<Result<M, Status>>,
    message: fn(Vec<u8>) -> M,
}

impl<M> Write for Pieces<M> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        let message = (self.message)(bytes.to_vec());
        self.sender.blocking_send(Ok(message)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the name of the first message and the bytes of all to `intake`, and returns what it makes of them. If the client breaks off
/// or goes away, that is the error, and reading fails.
pub(super) async fn receive<M: Default, T>(
    request: Request<impl Stream<Item = Result<M, Status>> + Unpin>,
    parts: fn(M) -> (String, Vec<u8>),
    intake: impl AsyncFnOnce(String, Incoming) -> Result<T, Error>,
) -> Result<T, Error> {
    let gone = gone(&request);
    let mut messages = request.into_inner();
    let first = messages.next().await.transpose().map_err(|status| broken(&status))?.unwrap_or_default();
    let (name, first) = parts(first);
    let (sender, received) = mpsc::channel(WAITING);
    let feed = async {
        let mut next = Some(first);
        loop {
            let last = next.is_none();
            // If nobody reads any more, the intake has ended and says why.
            if sender.send(next).await.is_err() || last {
                return std::future::pending().await;
            }
            match messages.next().await.transpose() {
                Ok(message) => next = message.map(|message| parts(message).1),
                Err(status) => return broken(&status),
            }
        }
    };
    tokio::select! {
        taken = intake(name, Incoming { received, chunk: Cursor::default(), ended: false }) => taken,
        error = feed => Err(error),
        () = gone.cancelled() => Err(broken(&Status::cancelled("the client went away"))),
    }
}

fn broken(status: &Status) -> Error {
    Error::State { what: format!("the stream broke off: {}", status.message()) }
}

/// The bytes of messages for a thread that may block.
pub(super) struct Incoming {
    /// None: the client has sent all.
    received: mpsc::Receiver<Option<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || self.ended || buffer.is_empty() {
                return Ok(read);
            }
            match self.received.blocking_recv() {
                Some(Some(chunk)) => self.chunk = Cursor::new(chunk),
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client broke off")),
            }
        }
    }
}
