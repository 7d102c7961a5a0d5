//! Reads the peer's frames one by one and passes payloads on as they arrive, never buffering a whole one. A stream whose buffer
//! is full blocks the reader, and with it the peer.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::frame::{self, Frame, FrameHeader, GoAwayStatus, HEADER_LENGTH, ProtocolError, RstStatus};
use super::headers::Inflater;
use super::session::{IncomingStream, PING, Shared};
use super::table::{Delivery, FlowControl, WINDOW};
use crate::input;
use crate::wire::{self, BoxRead};

/// Bytes of one read.
const READ: usize = 32 * 1024;
/// Bytes of a control frame: four headers compress to a hundred.
const CONTROL_LIMIT: usize = 16 * 1024;

type End = wire::End<ProtocolError>;

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

struct Reader {
    io: BoxRead,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    inflater: Inflater,
    shared: Arc<Shared>,
    incoming: mpsc::Sender<IncomingStream>,
}

/// Reads the connection to its end.
pub(super) async fn run(io: BoxRead, shared: Arc<Shared>, incoming: mpsc::Sender<IncomingStream>) {
    let buffer = vec![0; READ];
    let mut reader = Reader { io, buffer, start: 0, end: 0, inflater: Inflater::default(), shared, incoming };
    let ended = reader.shared.ended.clone();
    let end = tokio::select! {
        end = reader.frames() => end,
        () = ended.cancelled() => return,
    };
    tracing::debug!(reason = %end, "a SPDY connection has ended");
    if let End::Protocol(_) = end {
        let goaway = frame::go_away(reader.shared.table().last(), GoAwayStatus::ProtocolError);
        wire::try_finish(&reader.shared.wire, &goaway).await;
    }
    reader.shared.end();
}

impl Reader {
    /// Reads until the buffer has `wanted` bytes, which always fit.
    async fn want(&mut self, wanted: usize) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < wanted {
            match self.io.read(&mut self.buffer[self.end..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.end += length,
            }
        }
        Ok(())
    }

    async fn frames(&mut self) -> End {
        loop {
            if let Err(end) = self.frame().await {
                return end;
            }
        }
    }

    async fn frame(&mut self) -> Result<(), End> {
        self.want(HEADER_LENGTH).await?;
        let bytes = &self.buffer[self.start..self.start + HEADER_LENGTH];
        let head = frame::parse_header(bytes.try_into().expect("it has this length"))?;
        self.start += HEADER_LENGTH;
        self.shared.activity.touch();
        let result = match head {
            FrameHeader::Data { stream, fin, length } => self.data(stream, fin, length).await,
            FrameHeader::Control { length, .. } if length > CONTROL_LIMIT => {
                return Err(ProtocolError::Connection("a control frame that is too long").into());
            }
            FrameHeader::Control { kind, flags, length } => {
                self.want(length).await?;
                let payload = self.start..self.start + length;
                self.start = payload.end;
                self.control(kind, flags, payload).await
            }
        };
        match result {
            Err(End::Protocol(ProtocolError::Stream { stream, status })) => {
                tracing::debug!(stream, ?status, "a SPDY stream is reset");
                Ok(self.shared.reset(stream, status).await?)
            }
            other => other,
        }
    }

    async fn data(&mut self, stream: u32, fin: bool, length: usize) -> Result<(), End> {
        let delivery = self.shared.table().receive(stream, length);
        let mut rest = length;
        while rest > 0 {
            self.want(1).await?;
            let piece = self.start..self.end.min(self.start + rest);
            if let Ok(Delivery::To(input_writer)) = &delivery {
                input_writer.write(&self.buffer[piece.clone()]).await;
            }
            rest -= piece.len();
            self.start = piece.end;
        }
        delivery?;
        if fin {
            self.shared.table().remote_fin(stream);
        }
        if self.shared.table().has_window_updates() {
            self.shared.updates_due.notify_one();
        }
        Ok(())
    }

    async fn control(&mut self, kind: u16, flags: u8, payload: std::ops::Range<usize>) -> Result<(), End> {
        let frame = frame::decode(kind, flags, &self.buffer[payload])?;
        match frame {
            Frame::SynStream { stream, fin, unidirectional, block } => {
                let headers = self.inflater.read(stream, block)?;
                return self.open(stream, headers, fin, unidirectional).await;
            }
            Frame::Headers { stream, fin, block } => {
                // No protocol here uses them, but later blocks depend on this one.
                self.inflater.read(stream, block)?;
                if fin {
                    self.shared.table().remote_fin(stream);
                }
            }
            Frame::RstStream { stream } => {
                self.shared.table().reset(stream);
            }
            Frame::Settings { initial_window } => {
                if let Some(window) = initial_window {
                    self.shared.table().initial_window(window);
                }
            }
            Frame::Ping(id) if id % 2 == 1 => {
                self.shared.wire.lock().await.write(&frame::ping(id)).await?;
            }
            Frame::Ping(PING) => {
                let mut table = self.shared.table();
                if table.flow_control() == FlowControl::Unknown {
                    table.ignore_flow_control();
                }
            }
            Frame::WindowUpdate { stream, delta } => self.shared.table().window_update(stream, delta)?,
            Frame::GoAway => self.shared.table().close(),
            Frame::Ping(_) | Frame::Unknown => {}
        }
        self.shared.changed.notify_waiters();
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: super::Headers, fin: bool, unidirectional: bool) -> Result<(), End> {
        let shared = Arc::downgrade(&self.shared);
        let on_consumed = move |length| {
            if let Some(shared) = shared.upgrade()
                && shared.table().consumed(id, length)
            {
                shared.updates_due.notify_one();
            }
        };
        let capacity = usize::try_from(WINDOW).expect("a window is small");
        let (input_writer, input) = input::pair(capacity, Some(Box::new(on_consumed)));
        self.shared.table().open(id, input_writer, fin)?;
        if unidirectional {
            // No protocol here has streams without a reply.
            return Err(ProtocolError::Stream { stream: id, status: RstStatus::RefusedStream }.into());
        }
        let stream = IncomingStream { id, headers, input, shared: self.shared.clone() };
        // After close() nobody accepts streams; the peer learns that by the GOAWAY.
        let _unwanted = self.incoming.send(stream).await;
        Ok(())
    }
}
