//! The download of a blob: the parts of a large one side by side where the host honours ranges and one connection does not keep the
//! writer busy, each resumed where it broke off. Only a download that makes no progress is given up, however often it breaks off.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::Url;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::source::{Errors, Source, Turn};
use super::{Failure, Slots};
use crate::Error;
use crate::document::Blob;
use crate::locks::hold;

/// Parts of one blob that are downloaded side by side: enough for a fast line with a long delay, whose share for one connection is
/// its window in each round trip.
const PARTS: usize = 4;
/// Bytes that find the writer with nothing to do, one after the other, until another part may arrive beside them. Where the writer has
/// enough to do, the parts come in order: what comes out of order is read once more to be hashed, and all is held by more connections.
const IDLE_BYTES: u64 = 2 << 20;
/// How long nothing comes until the other parts may arrive: one connection that hangs does not hold up the blob.
const STALL: Duration = Duration::from_millis(250);
/// Bytes that a download must bring within the time-out, unless it ends: slower than an old modem is no progress.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Bytes of a blob from an offset on.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

/// Which bytes of a blob are downloaded.
pub(crate) struct Wanted<'a> {
    /// The parts that are missing.
    pub(crate) missing: &'a [(u64, u64)],
    /// From this host alone; None: from all, in turn.
    pub(crate) only: Option<usize>,
}

/// A download of a blob to its writer.
struct Transfer<'a, M> {
    source: &'a Source,
    blob: &'a Blob,
    only: Option<usize>,
    slots: &'a Slots,
    writer: &'a mpsc::Sender<M>,
    /// The parts that nobody has begun, in order.
    left: Mutex<VecDeque<(u64, u64)>>,
    width: Width,
}

/// How many parts may arrive side by side.
#[derive(Debug)]
struct Width {
    /// Those that have not begun.
    more: Semaphore,
    /// Bytes that found the writer idle since the last part was let in, or the writer was busy.
    idle: AtomicU64,
    /// Bytes in all.
    arrived: AtomicU64,
}

impl Default for Width {
    fn default() -> Self {
        Self { more: Semaphore::new(1), idle: AtomicU64::new(0), arrived: AtomicU64::new(0) }
    }
}

impl Width {
    /// Waits until another part may arrive.
    async fn wait(&self) {
        loop {
            let before = self.arrived.load(Ordering::Relaxed);
            if let Ok(another) = timeout(STALL, self.more.acquire()).await {
                return another.expect("it is never closed").forget();
            }
            // Before the first bytes nobody knows whether the host honours ranges.
            if before > 0 && self.arrived.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Lets one more part arrive if the writer has had nothing to do for a while.
    fn note(&self, bytes: u64, is_idle: bool) {
        self.arrived.fetch_add(bytes, Ordering::Relaxed);
        if !is_idle {
            self.idle.store(0, Ordering::Relaxed);
        } else if self.idle.fetch_add(bytes, Ordering::Relaxed) + bytes >= IDLE_BYTES {
            self.idle.store(0, Ordering::Relaxed);
            self.more.add_permits(1);
        }
    }

    /// Nobody waits any longer.
    fn open(&self) {
        self.more.add_permits(PARTS);
    }
}

/// Where a part is downloaded from; `url`: not at the registry's address, but there.
struct From<'a> {
    turn: Turn<'a>,
    url: Option<&'a Url>,
}

/// What is still missing of a part. The first part of a blob (`tells`) tells whether its host honours ranges; if it does not, that
/// part is everything.
struct Part {
    from: u64,
    to: u64,
    tells: bool,
}

impl Source {
    /// Downloads the missing parts of a blob; whether bytes of several hosts may be in it.
    pub(crate) async fn blob<M: std::convert::From<Piece>>(
        &self,
        blob: &Blob,
        Wanted { missing, only }: Wanted<'_>,
        slots: &Slots,
        writer: &mpsc::Sender<M>,
    ) -> Result<bool, Error> {
        let left = Mutex::new(missing.iter().copied().collect());
        let transfer = Transfer { source: self, blob, only, slots, writer, left, width: Width::default() };
        let mixed = try_join_all((0..PARTS).map(|number| transfer.lane(number))).await?;
        Ok(mixed.contains(&true))
    }
}

impl<M: std::convert::From<Piece>> Transfer<'_, M> {
    /// Downloads one part after the other, as soon as so many may arrive side by side; whether several hosts had a share in one.
    async fn lane(&self, number: usize) -> Result<bool, Error> {
        self.width.wait().await;
        let (mut mixed, mut tells) = (false, number == 0);
        while let Some((from, to)) = self.next() {
            mixed |= self.part(Part { from, to, tells }).await?;
            tells = false;
        }
        self.width.open();
        Ok(mixed)
    }

    fn next(&self) -> Option<(u64, u64)> {
        hold(&self.left).pop_front()
    }

    /// Downloads a part from one host after the other; whether several had a share in it.
    async fn part(&self, mut part: Part) -> Result<bool, Error> {
        let mut errors = Errors::default();
        let turns = self.source.turns(self.only, |registry| registry.endpoint.pull);
        // The addresses of a layer that the registry need not have come last: it may have the layer all the same.
        let last = turns.last().map(|turn| Turn { has_next: false, ..*turn });
        let own = turns.into_iter().map(|turn| (turn, None));
        let foreign = self.blob.urls.iter().filter_map(|url| Some((last?, Some(Url::parse(url).ok()?))));
        let begin = part.from;
        for (turn, url) in own.chain(foreign) {
            let (mut attempt, mixed) = (1, part.from > begin);
            let from = From { turn, url: url.as_ref() };
            loop {
                let before = part.from;
                let Err(failure) = self.attempt(&from, &mut part).await else {
                    self.source.down.heard(&turn.registry.endpoint.base);
                    return Ok(mixed);
                };
                let progressed = part.from >= before + PROGRESS_BYTES;
                attempt = if progressed { 1 } else { attempt };
                let Some(pause) = turn.pause(&failure, attempt) else {
                    if url.is_none() {
                        self.source.note(turn.registry, &failure);
                    }
                    break errors.add(turn.registry, failure);
                };
                let error = host::chain(failure.error());
                tracing::debug!(blob = %self.blob.digest, error, attempt, "download broke off");
                if !progressed {
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
            }
            // The writer reports its own error.
            if self.writer.is_closed() {
                break;
            }
        }
        Err(errors.telling().unwrap_or_else(|| self.source.nobody("pull", self.blob.digest.as_str())))
    }

    /// Makes one attempt, from the end of the last one.
    async fn attempt(&self, from: &From<'_>, part: &mut Part) -> Result<(), Failure> {
        let From { turn: Turn { registry, has_next, .. }, url } = *from;
        let _slots = self.slots.take(&registry.endpoint.base).await;
        let name = url.and_then(Url::host_str).map_or_else(|| registry.name(), str::to_owned);
        let operation = format!("cannot download blob {} from {name}", self.blob.digest);
        let range = (part.from, (part.to < self.blob.size).then_some(part.to));
        let (mut response, ranged) = match url {
            Some(url) => registry.foreign(url, range).await?,
            None => registry.blob(&self.blob.digest, range, has_next).await?,
        };
        if std::mem::take(&mut part.tells) && !ranged {
            part.to = self.blob.size;
            hold(&self.left).clear();
        }
        let mut at = if ranged { part.from } else { 0 };
        let (mut window, mut brought) = (Instant::now(), 0u64);
        while part.from < part.to
            && let Some(bytes) = registry.chunk(&mut response, &operation).await?
        {
            brought += bytes.len() as u64;
            if window.elapsed() > registry.timeout {
                if brought < PROGRESS_BYTES {
                    let reason = format!("only {brought} bytes came in {} s", registry.timeout.as_secs_f32());
                    return Err(Failure::Unreachable { error: Error::unavailable(&operation)(reason), passing: true });
                }
                (window, brought) = (Instant::now(), 0);
            }
            let end = at + bytes.len() as u64;
            if end > if ranged { part.to } else { self.blob.size } {
                let reason = format!("{name} sends more than its {} bytes", self.blob.size);
                return Err(Error::invalid(format!("blob {}", self.blob.digest), reason).into());
            }
            if end > part.from {
                let skipped = usize::try_from(part.from - at.min(part.from)).unwrap_or(0);
                let piece = Piece { offset: at + skipped as u64, bytes: bytes.slice(skipped..) };
                let is_idle = self.writer.capacity() == self.writer.max_capacity();
                self.width.note(piece.bytes.len() as u64, is_idle);
                let gone = |_| Failure::Permanent(Error::failed(&operation)("nobody takes it any more"));
                self.writer.send(piece.into()).await.map_err(gone)?;
                part.from = end;
            }
            at = end;
        }
        if part.from < part.to {
            let reason = format!("it ended after {at} of {} bytes", self.blob.size);
            return Err(Failure::Transient(Error::unavailable(&operation)(reason), None));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{IDLE_BYTES, Width};

    #[test]
    fn another_part_arrives_when_a_writer_stays_idle() {
        let width = Width::default();
        let step = IDLE_BYTES / 4;
        for is_idle in [true, true, true, false, true, true, true] {
            width.note(step, is_idle);
        }
        assert_eq!(width.more.available_permits(), 1, "it was busy in between");
        width.note(step, true);
        assert_eq!(width.more.available_permits(), 2);
        (0..3).for_each(|_| width.note(step, true));
        assert_eq!(width.more.available_permits(), 2, "each has its own while");
    }
}
