//! A connection: its channels, which are open from the start, and its close.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::codec::{Codec, MessageDecoder, Piece, encode};
use super::frame::{self, CONTROL_LIMIT, FrameHeader, HEADER_LIMIT, Opcode, ProtocolError};
use crate::idle::Activity;
use crate::input::{self, Input, InputWriter};
use crate::wire::{self, BoxRead, BoxWrite, Chunk, SharedWire, Wire};

/// Bytes of one read.
const READ: usize = 32 * 1024;
/// Bytes that are buffered for a channel.
const CAPACITY: usize = 64 * 1024;
/// How long the last frame may take to be sent, and then the client to close; see the SPDY session.
const LINGER: Duration = Duration::from_secs(5);
/// The status of a normal close (RFC 6455, section 7.4.1).
const NORMAL: u16 = 1000;
/// The status of a close after a protocol error.
const PROTOCOL_ERROR: u16 = 1002;

/// A connection. Dropping it aborts the connection; [`Session::close`] ends it in good order.
#[derive(Debug)]
pub struct Session {
    wire: SharedWire,
    codec: Codec,
    ended: CancellationToken,
    input_writers: Arc<[Option<InputWriter>]>,
    reader: AbortOnDropHandle<()>,
}

impl Session {
    /// Serves a connection that has just been upgraded; `channels` says for each, from 0 on, whether the client may send on it.
    /// Returns the inputs of those beside the session.
    #[must_use]
    pub fn start(
        (read, write): (BoxRead, BoxWrite),
        codec: Codec,
        channels: &[bool],
        idle: Duration,
    ) -> (Self, Vec<Option<Input>>) {
        let activity = Arc::new(Activity::new(idle));
        let wire = Arc::new(Mutex::new(Wire::new(write, activity.clone())));
        let boxes = channels.iter().map(|read| read.then(|| input::pair(CAPACITY, None)).unzip());
        let (input_writers, inputs): (Vec<_>, Vec<_>) = boxes.unzip();
        let input_writers: Arc<[Option<InputWriter>]> = input_writers.into();
        let ended = CancellationToken::new();
        let reader = Reader {
            io: read,
            buffer: vec![0; READ],
            filled: 0..0,
            message: MessageDecoder::new(codec),
            in_message: false,
            input_writers: input_writers.clone(),
            wire: wire.clone(),
            activity,
        };
        let reader = AbortOnDropHandle::new(tokio::spawn(reader.run(ended.clone())));
        (Self { wire, codec, ended, input_writers, reader }, inputs)
    }

    /// The sending side of a channel.
    #[must_use]
    pub fn output(&self, channel: u8) -> Output {
        Output { channel, codec: self.codec, wire: self.wire.clone(), text: String::new() }
    }

    /// Cancelled when the connection is gone.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Sends a close frame, and waits for the client to close, for a while.
    pub async fn close(mut self) {
        let close = frame::message(Opcode::Close, &NORMAL.to_be_bytes());
        let wire = self.wire.clone();
        let sent = tokio::time::timeout(LINGER, async move { wire.lock().await.finish(&close).await }).await;
        if matches!(sent, Ok(Ok(()))) {
            let _gone = tokio::time::timeout(LINGER, &mut self.reader).await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        end(&self.input_writers, &self.ended);
    }
}

fn end(input_writers: &[Option<InputWriter>], ended: &CancellationToken) {
    input_writers.iter().flatten().for_each(InputWriter::reset);
    ended.cancel();
}

/// The sending side of a channel.
#[derive(Debug)]
pub struct Output {
    channel: u8,
    codec: Codec,
    wire: SharedWire,
    text: String,
}

impl Output {
    /// Sends the chunk as one message, also an empty one.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        let frame = encode(self.codec, self.channel, chunk, &mut self.text);
        self.wire.lock().await.write(frame).await
    }
}

type End = wire::End<ProtocolError>;

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

struct Reader {
    io: BoxRead,
    buffer: Vec<u8>,
    filled: std::ops::Range<usize>,
    message: MessageDecoder,
    in_message: bool,
    input_writers: Arc<[Option<InputWriter>]>,
    wire: SharedWire,
    activity: Arc<Activity>,
}

impl Reader {
    async fn run(mut self, ended: CancellationToken) {
        let activity = self.activity.clone();
        let reason = tokio::select! {
            reason = self.frames() => reason,
            () = activity.expired() => End::Io(io::ErrorKind::TimedOut.into()),
            () = ended.cancelled() => End::Closed,
        };
        tracing::debug!(%reason, "a WebSocket connection has ended");
        let status = if matches!(reason, End::Protocol(_)) { PROTOCOL_ERROR } else { NORMAL };
        let close = frame::message(Opcode::Close, &status.to_be_bytes());
        if !matches!(reason, End::Io(_)) {
            wire::try_finish(&self.wire, &close).await;
        }
        end(&self.input_writers, &ended);
    }

    async fn frames(&mut self) -> End {
        loop {
            if let Err(end) = self.frame().await {
                return end;
            }
        }
    }

    /// Reads more. There is always room: nothing longer than a control frame is kept.
    async fn more(&mut self) -> io::Result<()> {
        if self.filled.end + HEADER_LIMIT + CONTROL_LIMIT > self.buffer.len() || self.filled.is_empty() {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        match self.io.read(&mut self.buffer[self.filled.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.filled.end += length;
                Ok(())
            }
        }
    }

    async fn frame(&mut self) -> Result<(), End> {
        let (head, length) = loop {
            if let Some(found) = frame::parse_header(&self.buffer[self.filled.clone()])? {
                break found;
            }
            self.more().await?;
        };
        self.filled.start += length;
        self.activity.touch();
        if head.opcode.is_control() {
            return self.control(head).await;
        }
        if (head.opcode == Opcode::Continuation) != self.in_message {
            return Err(ProtocolError("a frame that does not follow the one before it").into());
        }
        self.in_message = !head.fin;
        let mut done = 0;
        while done < head.length {
            if self.filled.is_empty() {
                self.more().await?;
            }
            let rest = usize::try_from(head.length - done).unwrap_or(usize::MAX);
            let piece = self.filled.start..self.filled.end.min(self.filled.start.saturating_add(rest));
            frame::unmask(&mut self.buffer[piece.clone()], head.mask, done);
            deliver(&self.input_writers, self.message.piece(&self.buffer[piece.clone()])?).await;
            done += piece.len() as u64;
            self.filled.start = piece.end;
        }
        if head.fin { Ok(self.message.finish()?) } else { Ok(()) }
    }

    async fn control(&mut self, head: FrameHeader) -> Result<(), End> {
        let length = usize::try_from(head.length).expect("a control frame is short");
        while self.filled.len() < length {
            self.more().await?;
        }
        let payload = self.filled.start..self.filled.start + length;
        self.filled.start = payload.end;
        frame::unmask(&mut self.buffer[payload.clone()], head.mask, 0);
        match head.opcode {
            Opcode::Ping => {
                let pong = frame::message(Opcode::Pong, &self.buffer[payload]);
                Ok(self.wire.lock().await.write(&pong).await?)
            }
            Opcode::Close => Err(End::Closed),
            _ => Ok(()),
        }
    }
}

async fn deliver(input_writers: &[Option<InputWriter>], piece: Option<Piece<'_>>) {
    // As in kubelet, a message for a channel that does not exist, or that the client may not send on, is discarded.
    let input_writer = |channel: u8| input_writers.get(usize::from(channel)).and_then(Option::as_ref);
    match piece {
        Some(Piece::Data(channel, bytes)) => {
            if let Some(input_writer) = input_writer(channel) {
                input_writer.write(bytes).await;
            }
        }
        Some(Piece::Finished(channel)) => {
            if let Some(input_writer) = input_writer(channel) {
                input_writer.finish();
            }
        }
        None => {}
    }
}
