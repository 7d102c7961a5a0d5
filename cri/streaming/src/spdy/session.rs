//! A connection: accepts the peer's streams, sends on them, and closes.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::frame::{self, GoAwayStatus, RstStatus};
use super::headers::{Deflater, Headers};
use super::reader;
use super::table::{Reservation, Table};
use crate::idle::Activity;
use crate::input::Input;
use crate::wire::{BoxRead, BoxWrite, Chunk, SharedWire, Wire};

/// Streams that wait to be accepted; the reader blocks beyond.
const INCOMING: usize = 8;
/// The id of our PINGs: a server's are even.
pub(super) const PING: u32 = 2;
/// How long the reply to a PING may take before the peer counts as one that ignores flow control.
const PING_PATIENCE: Duration = Duration::from_secs(1);
/// How long the last frames may take to be sent, and then the peer to close. Its frames are discarded meanwhile: closing a socket
/// with unread data resets the connection, and the peer loses what it has not read yet (tcp(4), RFC 1122 4.2.2.13).
const LINGER: Duration = Duration::from_secs(5);

/// The limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Concurrent streams; each may hold twice [`super::table::WINDOW`] bytes that were received.
    pub streams: u32,
    /// The idle time-out.
    pub idle: Duration,
}

/// What the tasks and the streams of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wire: SharedWire,
    pub(super) activity: Arc<Activity>,
    deflater: Mutex<Deflater>,
    table: Mutex<Table>,
    /// Wakes the streams that wait to send.
    pub(super) changed: Notify,
    /// WINDOW_UPDATEs are due.
    pub(super) updates_due: Notify,
    /// The connection is gone.
    pub(super) ended: CancellationToken,
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets a stream and tells the peer.
    pub(super) async fn reset(&self, stream: u32, status: RstStatus) -> io::Result<()> {
        self.table().reset(stream);
        self.changed.notify_waiters();
        self.wire.lock().await.write(&frame::rst_stream(stream, status)).await
    }

    pub(super) fn end(&self) {
        self.table().end();
        self.ended.cancel();
        self.changed.notify_waiters();
    }
}

/// A connection. Dropping it aborts the connection; [`Session::close`] ends it in good order.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<IncomingStream>,
    reader: AbortOnDropHandle<()>,
    _window_updates: AbortOnDropHandle<()>,
}

impl Session {
    /// Serves a connection that has just been upgraded.
    #[must_use]
    pub fn start(read: BoxRead, write: BoxWrite, limits: Limits) -> Self {
        let activity = Arc::new(Activity::new(limits.idle));
        let shared = Arc::new(Shared {
            wire: Arc::new(tokio::sync::Mutex::new(Wire::new(write, activity.clone()))),
            activity,
            deflater: Mutex::default(),
            table: Mutex::new(Table::new(limits.streams as usize)),
            changed: Notify::new(),
            updates_due: Notify::new(),
            ended: CancellationToken::new(),
        });
        let (sender, incoming) = mpsc::channel(INCOMING);
        let reader = tokio::spawn(reader::run(read, shared.clone(), sender));
        let window_updates = tokio::spawn(send_window_updates(shared.clone(), limits.streams));
        Self {
            shared,
            incoming,
            reader: AbortOnDropHandle::new(reader),
            _window_updates: AbortOnDropHandle::new(window_updates),
        }
    }

    /// The next stream that the peer opens; None: the connection is gone.
    pub async fn next_stream(&mut self) -> Option<IncomingStream> {
        self.incoming.recv().await
    }

    /// Cancelled when the connection is gone.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.shared.ended.clone()
    }

    /// Sends GOAWAY, and waits for the peer to close, for a while.
    pub async fn close(mut self, status: GoAwayStatus) {
        let last = {
            let mut table = self.shared.table();
            table.close();
            table.last()
        };
        // The reader may be blocked by a full channel of incoming streams.
        self.incoming.close();
        let goaway = frame::go_away(last, status);
        let shared = self.shared.clone();
        let sent = tokio::time::timeout(LINGER, async move { shared.wire.lock().await.finish(&goaway).await }).await;
        if matches!(sent, Ok(Ok(()))) {
            let _gone = tokio::time::timeout(LINGER, &mut self.reader).await;
        }
        self.shared.end();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Sends the WINDOW_UPDATEs that are due, and ends the connection once it has been idle for too long.
async fn send_window_updates(shared: Arc<Shared>, streams: u32) {
    let mut frames = frame::settings_max_streams(streams);
    loop {
        if !frames.is_empty() && shared.wire.lock().await.write(&frames).await.is_err() {
            break;
        }
        tokio::select! {
            () = shared.updates_due.notified() => {}
            () = shared.activity.expired() => {
                tracing::debug!("a streaming connection was idle for too long");
                break;
            }
            () = shared.ended.cancelled() => break,
        }
        frames = shared
            .table()
            .take_window_updates()
            .into_iter()
            .flat_map(|(id, delta)| frame::window_update(id, delta))
            .collect();
    }
    shared.end();
}

/// A SYN_STREAM without a reply yet.
#[derive(Debug)]
pub struct IncomingStream {
    /// Its number.
    pub id: u32,
    /// Its headers.
    pub headers: Headers,
    pub(super) input: Input,
    pub(super) shared: Arc<Shared>,
}

/// A stream that was accepted.
#[derive(Debug)]
pub struct Stream {
    /// What the peer sends on it.
    pub input: Input,
    /// What the peer is sent on it.
    pub output: Output,
}

impl IncomingStream {
    /// Accepts the stream with SYN_REPLY.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn accept(self) -> io::Result<Stream> {
        let mut wire = self.shared.wire.lock().await;
        // Under the wire's lock: header blocks must be sent in the order in which they were compressed.
        let block = self.shared.deflater.lock().unwrap_or_else(PoisonError::into_inner).empty();
        wire.write(&frame::syn_reply(self.id, &block)).await?;
        drop(wire);
        Ok(Stream { input: self.input, output: Output { id: self.id, shared: self.shared } })
    }

    /// Refuses the stream with RST_STREAM.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn refuse(self) -> io::Result<()> {
        self.shared.reset(self.id, RstStatus::RefusedStream).await
    }
}

/// The sending side of a stream.
#[derive(Debug)]
pub struct Output {
    id: u32,
    shared: Arc<Shared>,
}

impl Output {
    /// Sends the chunk in as many frames as the windows require.
    ///
    /// # Errors
    /// The peer has reset the stream, or the connection is gone.
    pub async fn send(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        while !chunk.payload().is_empty() {
            let length = self.reserve(chunk.payload().len()).await?;
            let header = frame::data(self.id, false, length);
            self.shared.wire.lock().await.write(chunk.frame(&header, length)).await?;
        }
        Ok(())
    }

    /// Half-closes the stream with FLAG_FIN. Idempotent.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        if !self.shared.table().local_fin(self.id) {
            return Ok(());
        }
        self.shared.wire.lock().await.write(&frame::data(self.id, true, 0)).await
    }

    /// Resets the stream with CANCEL. Idempotent.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn reset(&mut self) -> io::Result<()> {
        let there = self.shared.table().reset(self.id);
        if !there {
            return Ok(());
        }
        self.shared.wire.lock().await.write(&frame::rst_stream(self.id, RstStatus::Cancel)).await
    }

    /// Waits until the windows allow to send, and takes at most `wanted` bytes from them.
    async fn reserve(&self, wanted: usize) -> io::Result<usize> {
        loop {
            let changed = self.shared.changed.notified();
            let reservation = self.shared.table().reserve(self.id, wanted);
            match reservation {
                Reservation::Granted(length) => return Ok(length),
                Reservation::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
                Reservation::Wait => changed.await,
                Reservation::Probe => {
                    self.shared.wire.lock().await.write(&frame::ping(PING)).await?;
                    if tokio::time::timeout(PING_PATIENCE, changed).await.is_err() {
                        self.shared.table().ignore_flow_control();
                        self.shared.changed.notify_waiters();
                    }
                }
            }
        }
    }
}
