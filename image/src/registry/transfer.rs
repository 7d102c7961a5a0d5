//! The download of a blob: the parts of a large one side by side where the host honours ranges, each resumed where it broke off.
//! Only a download that makes no progress is given up, however often it breaks off.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Url;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::source::{Errors, Source, Turn};
use super::{Failure, Slots};
use crate::Error;
use crate::document::Blob;

/// Parts of one blob that are downloaded side by side: enough for a fast line with a long delay, whose share for one connection is
/// its window in each round trip.
const PARTS: usize = 4;
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
}

/// Where a part is downloaded from; `url`: not at the registry's address, but there.
struct From<'a> {
    turn: Turn<'a>,
    url: Option<&'a Url>,
}

/// What is still missing of a part. The first part of a blob tells whether its host honours ranges; if it does not, that part is
/// everything.
struct Part<'a> {
    from: u64,
    to: u64,
    ranges: Option<&'a watch::Sender<Option<bool>>>,
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
        let Some(((from, to), rest)) = missing.split_first() else { return Ok(false) };
        let transfer = Transfer { source: self, blob, only, slots, writer };
        let (ranges, asked) = watch::channel(None);
        let first = transfer.part(Part { from: *from, to: *to, ranges: Some(&ranges) });
        let rest = stream::iter(rest.to_vec()).map(|(from, to)| {
            let (mut asked, transfer) = (asked.clone(), &transfer);
            async move {
                // An error ends the first part, and with it this one.
                let honoured = asked.wait_for(Option::is_some).await.is_ok_and(|honoured| *honoured == Some(true));
                if honoured { transfer.part(Part { from, to, ranges: None }).await } else { Ok(false) }
            }
        });
        let rest = rest.buffer_unordered(PARTS - 1).try_fold(false, |mixed, more| async move { Ok(mixed | more) });
        let (first, rest) = futures::try_join!(first, rest)?;
        Ok(first | rest)
    }
}

impl<M: std::convert::From<Piece>> Transfer<'_, M> {
    /// Downloads a part from one host after the other; whether several had a share in it.
    async fn part(&self, mut part: Part<'_>) -> Result<bool, Error> {
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
    async fn attempt(&self, from: &From<'_>, part: &mut Part<'_>) -> Result<(), Failure> {
        let From { turn: Turn { registry, has_next, .. }, url } = *from;
        let _slots = self.slots.take(&registry.endpoint.base).await;
        let name = url.and_then(Url::host_str).map_or_else(|| registry.name(), str::to_owned);
        let operation = format!("cannot download blob {} from {name}", self.blob.digest);
        let range = (part.from, (part.to < self.blob.size).then_some(part.to));
        let (mut response, ranged) = match url {
            Some(url) => registry.foreign(url, range).await?,
            None => registry.blob(&self.blob.digest, range, has_next).await?,
        };
        if let Some(ranges) = part.ranges.take() {
            if !ranged {
                part.to = self.blob.size;
            }
            // The others may be gone.
            let _ = ranges.send(Some(ranged));
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
