//! The sending side of a connection, shared by all its streams: whole frames only, one after the other. A stream waits for its
//! turn and then for the socket, so nothing is queued here, and a client that does not read blocks only its own streams.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Mutex;

use super::idle::Activity;

/// The half of a connection that is read.
pub(crate) type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// The half of a connection that is written.
pub(crate) type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// Bytes in front of a payload for the header of its frame: SPDY takes 8, WebSocket up to 10 and one for the channel.
const HEADROOM: usize = 16;
/// The most bytes of a payload: a pipe's capacity on Linux and FreeBSD, so that one read empties it.
pub(crate) const PAYLOAD: usize = 64 * 1024;
/// The first size of a payload, in bytes: most outputs are short, or keystrokes.
const FIRST: usize = 4 * 1024;

/// How long [`try_finish`] waits for the socket.
const FINISH: Duration = Duration::from_secs(1);

/// A payload between a descriptor and a frame, with room for the frame's header in front of it: both go out in one write, and a
/// frame costs no copy and no allocation.
#[derive(Debug)]
pub struct Chunk {
    /// The room for a header, then the payload.
    bytes: Vec<u8>,
    /// The bounds of the payload that was not framed yet.
    start: usize,
    end: usize,
    /// The size of the next read.
    space: usize,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { bytes: vec![0; HEADROOM], start: HEADROOM, end: HEADROOM, space: FIRST }
    }
}

impl Chunk {
    /// A chunk with these bytes, for short messages.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let mut chunk = Self::default();
        chunk.set(payload);
        chunk
    }

    /// Replaces the chunk's payload by a copy of these bytes.
    pub fn set(&mut self, payload: &[u8]) {
        self.bytes.truncate(HEADROOM);
        self.bytes.extend_from_slice(payload);
        (self.start, self.end) = (HEADROOM, self.bytes.len());
    }

    /// Empties the chunk and lends its space to `read`, which returns how many bytes it filled. The space grows when all of it
    /// was used.
    ///
    /// # Errors
    /// Those of `read`; the chunk is empty then.
    pub fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        if self.bytes.len() < HEADROOM + self.space {
            self.bytes.resize(HEADROOM + self.space, 0);
        }
        let result = read(&mut self.bytes[HEADROOM..HEADROOM + self.space]);
        let length = result.as_ref().map_or(0, |length| *length);
        if length == self.space {
            self.space = PAYLOAD.min(self.space * 4);
        }
        (self.start, self.end) = (HEADROOM, HEADROOM + length);
        result
    }

    /// The payload that has not been framed yet.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes the first `length` bytes of the payload as a frame, with `header` in front.
    ///
    /// # Panics
    /// For a header that is longer than the room kept for it, or a length beyond the payload.
    pub fn frame(&mut self, header: &[u8], length: usize) -> &[u8] {
        // After the first frame the room is payload that has been sent already.
        let from = self.start - header.len();
        self.bytes[from..self.start].copy_from_slice(header);
        self.start += length;
        debug_assert!(self.start <= self.end, "a frame is within the payload");
        &self.bytes[from..self.start]
    }
}

/// The writing half of a connection. A frame that was interrupted, because its task was dropped, makes it unusable: the peer
/// would take what follows for the rest of that frame.
pub(crate) struct Wire {
    io: BoxWrite,
    intact: bool,
    activity: Arc<Activity>,
}

/// The writing half, shared by the streams of a connection; the lock is fair.
pub(crate) type SharedWire = Arc<Mutex<Wire>>;

/// Why the reading half ended; `P` is a violation of the protocol by the peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End<P> {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(P),
    #[error("the client has closed it")]
    Closed,
}

/// Shuts a connection down after a last frame, unless a peer that does not read blocks the writer.
pub(crate) async fn try_finish(wire: &SharedWire, last: &[u8]) {
    if let Ok(mut wire) = wire.try_lock() {
        let _told = tokio::time::timeout(FINISH, wire.finish(last)).await;
    }
}

impl Wire {
    /// A wire over a half that nothing else writes to.
    #[must_use]
    pub(crate) fn new(io: BoxWrite, activity: Arc<Activity>) -> Self {
        Self { io, intact: true, activity }
    }

    /// Writes whole frames.
    ///
    /// # Errors
    /// The connection is gone, or an earlier write was interrupted.
    pub(crate) async fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        if !std::mem::replace(&mut self.intact, false) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.io.write_all(frames).await?;
        self.io.flush().await?;
        self.intact = true;
        self.activity.touch();
        Ok(())
    }

    /// Shuts the connection down after an optional last frame.
    ///
    /// # Errors
    /// As [`Wire::write`].
    pub(crate) async fn finish(&mut self, last: &[u8]) -> io::Result<()> {
        self.write(last).await?;
        self.intact = false;
        self.io.shutdown().await
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("intact", &self.intact).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;

    use super::{Activity, Chunk, FIRST, HEADROOM, PAYLOAD, Wire};

    #[test]
    fn a_chunk_is_framed_in_pieces() {
        let mut chunk = Chunk::default();
        chunk
            .fill(|space| {
                assert_eq!(space.len(), FIRST);
                space[..6].copy_from_slice(b"abcdef");
                Ok(6)
            })
            .unwrap();
        assert_eq!(chunk.payload(), b"abcdef");
        assert_eq!(chunk.frame(b"12345678", 4), b"12345678abcd");
        assert_eq!(chunk.payload(), b"ef");
        assert_eq!(chunk.frame(b"h", 2), b"hef");
        assert!(chunk.payload().is_empty());
        assert!(chunk.fill(|_| Err(std::io::ErrorKind::WouldBlock.into())).is_err());
        assert!(chunk.payload().is_empty());
        let mut grown = 0;
        for _ in 0..4 {
            grown = chunk.fill(|space| Ok(space.len())).unwrap();
        }
        assert_eq!(grown, PAYLOAD);
        assert_eq!(Chunk::of(b"x").frame(&[0; HEADROOM], 1).len(), HEADROOM + 1);
    }

    #[tokio::test]
    async fn a_write_that_was_cut_off_spoils_the_wire() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut wire = Wire::new(Box::new(ours), Arc::new(Activity::new(Duration::from_secs(1))));
        wire.write(b"ab").await.unwrap();
        let cut = tokio::time::timeout(Duration::from_millis(10), wire.write(b"cdefgh")).await;
        assert!(cut.is_err());
        let mut read = [0; 4];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(wire.write(b"ij").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }
}
