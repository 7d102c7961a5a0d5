//! A connection: its streams as the peer offers them, what is sent on them, its end.

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

/// Streams that were offered and not looked at yet; the reader waits for room.
const INCOMING: usize = 8;
/// The number of our PINGs: a server's are even.
pub(super) const PING: u32 = 2;
/// How long the answer to a PING is waited for before the peer counts as one that ignores windows.
const PING_PATIENCE: Duration = Duration::from_secs(1);
/// How long the last frames may take to leave, and then the peer to go: until then its frames are thrown away, since a
/// socket that is closed with something unread takes back what the peer has not read yet (tcp(4), RFC 1122 4.2.2.13).
const LINGER: Duration = Duration::from_secs(5);

/// What a connection may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at once; each may hold twice [`super::table::WINDOW`] bytes that were received.
    pub streams: u32,
    /// How long nothing may happen before the connection ends.
    pub idle: Duration,
}

/// What the streams, the reader and the keeper of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wire: SharedWire,
    pub(super) activity: Arc<Activity>,
    deflater: Mutex<Deflater>,
    table: Mutex<Table>,
    /// Something changed that a stream that waits to send cares about.
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

    /// Takes a stream out of the table and tells the peer.
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

/// A connection. Dropped, it is cut off; [`Session::close`] ends it in good order.
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

    /// Says farewell, and waits a little for the peer to have read everything.
    pub async fn close(mut self, status: GoAwayStatus) {
        let last = {
            let mut table = self.shared.table();
            table.close();
            table.last()
        };
        // The reader may stand before a full channel of offers.
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

/// A stream that the peer has opened and that was not answered yet.
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
    /// Accepts the stream.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn accept(self) -> io::Result<Stream> {
        let mut wire = self.shared.wire.lock().await;
        // Under the wire's lock: blocks must leave in the order in which they were made.
        let block = self.shared.deflater.lock().unwrap_or_else(PoisonError::into_inner).empty();
        wire.write(&frame::syn_reply(self.id, &block)).await?;
        drop(wire);
        Ok(Stream { input: self.input, output: Output { id: self.id, shared: self.shared } })
    }

    /// Refuses it.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn refuse(self) -> io::Result<()> {
        self.shared.reset(self.id, RstStatus::RefusedStream).await
    }
}

/// What is sent on one stream.
#[derive(Debug)]
pub struct Output {
    id: u32,
    shared: Arc<Shared>,
}

impl Output {
    /// Sends the chunk, in as many frames as the windows ask for.
    ///
    /// # Errors
    /// The peer has given the stream up, or the connection is gone.
    pub async fn send(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        while !chunk.payload().is_empty() {
            let length = self.reserve(chunk.payload().len()).await?;
            let header = frame::data(self.id, false, length);
            self.shared.wire.lock().await.write(chunk.frame(&header, length)).await?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        if !self.shared.table().local_fin(self.id) {
            return Ok(());
        }
        self.shared.wire.lock().await.write(&frame::data(self.id, true, 0)).await
    }

    /// Gives the stream up, both ways.
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

    /// Waits until something may be sent, and takes at most `wanted` bytes from the windows.
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
