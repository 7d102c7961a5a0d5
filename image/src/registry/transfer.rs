//! The download of a blob: the parts of a large one side by side where the host honours ranges and fewer connections leave the writer
//! idle, each resumed where it broke off. Only a download that makes no progress is given up, however often it breaks off.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::Url;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::asked::Purpose;
use super::source::{Errors, Source, Turn};
use super::{Failure, Slots};
use crate::Error;
use crate::document::Blob;
use crate::locks::hold;

/// Parts of one blob that are downloaded side by side: enough for a fast line with a long delay, whose share for one connection is
/// its window in each round trip.
const PARTS: usize = 4;
/// How often the writer's queue is polled, and how many more polls must find it empty than not until another connection is opened: on a
/// line that the others do not fill, or while they hang. Where the writer is busy, the parts come in order: what comes out of order is
/// read once more to be hashed, and each connection holds memory.
const POLL: Duration = Duration::from_millis(50);
const IDLE_POLLS: usize = 4;
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
    /// Whether the first bytes have come: until then nobody knows whether the host honours ranges.
    begun: AtomicBool,
    /// Whether every part is taken.
    taken: watch::Sender<bool>,
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
        let (begun, taken) = (AtomicBool::new(false), watch::Sender::new(false));
        let transfer = Transfer { source: self, blob, only, slots, writer, left, begun, taken };
        let mixed = try_join_all((0..PARTS).map(|number| transfer.lane(number))).await?;
        Ok(mixed.contains(&true))
    }
}

impl<M: std::convert::From<Piece>> Transfer<'_, M> {
    /// Downloads one part after the other, beside those of `number` others; whether several hosts had a share in one.
    async fn lane(&self, number: usize) -> Result<bool, Error> {
        let is_idle = || self.begun.load(Ordering::Relaxed) && self.writer.capacity() == self.writer.max_capacity();
        wait_for_idle(number * IDLE_POLLS, is_idle, self.taken.subscribe()).await;
        let (mut mixed, mut tells) = (false, number == 0);
        while let Some((from, to)) = self.next() {
            mixed |= self.part(Part { from, to, tells }).await?;
            tells = false;
        }
        self.taken.send_replace(true);
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
        let range = (part.from, (part.to < self.blob.size).then_some(part.to));
        let ((mut response, ranged), purpose) = match url {
            Some(url) => (registry.foreign(url, range).await?, Purpose::Layer),
            None => (registry.blob(&self.blob.digest, range, has_next).await?, Purpose::Content),
        };
        let asked = registry.asked(purpose, response.url());
        let operation = format!("cannot download blob {} from {}", self.blob.digest, asked.who());
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
                    let error = Error::unavailable(&operation)(reason);
                    return Err(Failure::Unreachable { error, passing: true, is_down: asked.is_registry() });
                }
                (window, brought) = (Instant::now(), 0);
            }
            let end = at + bytes.len() as u64;
            if end > if ranged { part.to } else { self.blob.size } {
                let reason = asked.does(&format!("sends more than its {} bytes", self.blob.size));
                return Err(Error::invalid(format!("blob {}", self.blob.digest), reason).into());
            }
            if end > part.from {
                let skipped = usize::try_from(part.from - at.min(part.from)).unwrap_or(0);
                let piece = Piece { offset: at + skipped as u64, bytes: bytes.slice(skipped..) };
                self.begun.store(true, Ordering::Relaxed);
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

/// Waits until `polls` more polls found the writer idle than busy, or every part is taken.
async fn wait_for_idle(polls: usize, is_idle: impl Fn() -> bool, mut taken: watch::Receiver<bool>) {
    let mut found = 0;
    while found < polls && timeout(POLL, taken.wait_for(|taken| *taken)).await.is_err() {
        found = if is_idle() { found + 1 } else { found.saturating_sub(1) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::{IDLE_POLLS, POLL, wait_for_idle};

    #[tokio::test]
    async fn another_part_arrives_beside_an_idle_writer_and_not_beside_a_busy_one() {
        let (taken, polls) = (watch::Sender::new(false), AtomicUsize::new(0));
        // What each poll finds: i is idle.
        for (writer, comes) in [("iiii", true), ("iiibbiii", true), ("bbbbbbbbbb", false), ("ibibibibibib", false)] {
            polls.store(0, Ordering::Relaxed);
            let is_idle = || writer.as_bytes().get(polls.fetch_add(1, Ordering::Relaxed)) == Some(&b'i');
            let waited = timeout(POLL * 20, wait_for_idle(IDLE_POLLS, is_idle, taken.subscribe())).await;
            assert_eq!(waited.is_ok(), comes, "{writer}");
            assert!(!comes || polls.load(Ordering::Relaxed) == writer.len(), "{writer}");
        }
        wait_for_idle(0, || false, taken.subscribe()).await;
        let waiting = wait_for_idle(IDLE_POLLS, || false, taken.subscribe());
        taken.send_replace(true);
        assert!(timeout(Duration::from_secs(60), waiting).await.is_ok(), "there is nothing to wait for");
    }
}
