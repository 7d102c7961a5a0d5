//! One stream out, whatever carries it.

use std::io;

use super::wire::Chunk;
use super::{spdy, websocket};

/// What is sent on one stream.
#[derive(Debug)]
pub(super) enum Output {
    /// A stream of a SPDY connection.
    Spdy(spdy::Output),
    /// A channel of a WebSocket.
    WebSocket(websocket::Output),
}

impl Output {
    /// Sends the chunk.
    ///
    /// # Errors
    /// The client has given the stream up, or is gone.
    pub(super) async fn send(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        match self {
            Self::Spdy(output) => output.send(chunk).await,
            Self::WebSocket(output) => output.send(chunk).await,
        }
    }

    /// Sends short bytes, and says that nothing follows; the channels of a WebSocket only end together.
    ///
    /// # Errors
    /// As [`Output::send`].
    pub(super) async fn finish(&mut self, last: &[u8]) -> io::Result<()> {
        if !last.is_empty() {
            self.send(&mut Chunk::of(last)).await?;
        }
        match self {
            Self::Spdy(output) => output.finish().await,
            Self::WebSocket(_) => Ok(()),
        }
    }

    /// Gives the stream up.
    ///
    /// # Errors
    /// As [`Output::send`].
    pub(super) async fn reset(&mut self) -> io::Result<()> {
        match self {
            Self::Spdy(output) => output.reset().await,
            Self::WebSocket(_) => Ok(()),
        }
    }
}
