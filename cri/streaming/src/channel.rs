//! The output side of a stream, over SPDY or WebSocket.

use std::io;

use super::wire::Chunk;
use super::{spdy, websocket};

/// Sends on one stream.
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
    /// The client has reset the stream, or is gone.
    pub(super) async fn send(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        match self {
            Self::Spdy(output) => output.send(chunk).await,
            Self::WebSocket(output) => output.send(chunk).await,
        }
    }

    /// Sends `last` and ends the stream. The channels of a WebSocket end only with their connection.
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

    /// Resets the stream. WebSocket has no reset for a single channel.
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
