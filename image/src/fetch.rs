//! Downloads one blob of a pull into the content store, beside whoever unpacks it: an async task takes its pieces from the registry,
//! and a thread writes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::document::Blob;
use crate::flow::Flow;
use crate::ingest::{self, Ingest};
use crate::pull::{Work, blocking};
use crate::registry::{Piece, Wanted};
use crate::unsettled::Names;
use crate::{Error, Observer, Phase};

/// Pieces of a download that wait for the disk: they bound its memory, since each has up to 400 KiB on a fast line. More wait in the
/// sockets.
const PIECES_WAITING: usize = 2;
/// How often an observer is told of arriving bytes.
const TELLING: Duration = Duration::from_millis(100);

/// Gets the flow of a blob when its download begins, or None if it is stored.
type Begun = oneshot::Sender<Option<Arc<Flow>>>;

/// A message to the writer of a blob.
enum Message {
    Piece(Piece),
    /// The download is complete: is the digest right?
    Verify(oneshot::Sender<Result<(), Error>>),
    /// Discard everything, and tell when that is done.
    Restart(oneshot::Sender<Result<(), Error>>),
    /// The download failed, but a later one may resume.
    Keep,
}

impl From<Piece> for Message {
    fn from(piece: Piece) -> Self {
        Self::Piece(piece)
    }
}

/// Downloads a blob, which is pinned, unless it is stored or another pull downloads it. `begun` gets the flow of its bytes, or None
/// if it is stored.
pub(crate) async fn fetch(work: &Arc<Work>, blob: &Blob, begun: Option<Begun>) -> Result<(), Error> {
    let lock = work.shared.locks.lock(blob.digest.as_str()).await;
    let observer = if begun.is_some() { work.observer.clone() } else { Observer::default() };
    let told = Told { observer, blob: blob.clone() };
    let tell_begun = |flow| begun.map(|begun| begun.send(flow));
    let (opening, expected) = (Arc::clone(work), blob.clone());
    // The lock goes with the thread, and after the file: a pull that is given up meanwhile leaves neither to another one.
    let (ingest, lock) = blocking(move || Ok((begin(&opening, expected)?, lock))).await?;
    let Some(ingest) = ingest else {
        told.tell(Phase::Unpacking, blob.size);
        tell_begun(None);
        return Ok(());
    };
    tell_begun(Some(ingest.flow()));
    let (missing, resumed) = (ingest.missing(), ingest.is_resumed());
    let (sender, messages) = mpsc::channel(PIECES_WAITING);
    let writing = Arc::clone(work);
    let writer = spawn_blocking(move || {
        let _lock = lock;
        write(&writing, ingest, messages, &told)
    });
    let downloaded = async {
        let wanted = Wanted { missing: &missing, only: None };
        let mixed = resumed | work.source.blob(blob, wanted, &work.shared.slots, &sender).await?;
        match ask(&sender, Message::Verify).await {
            // One of several hosts or pulls sent the wrong bytes.
            Err(Error::Invalid { .. }) if mixed || work.source.hosts() > 1 => from_one_host(work, blob, &sender).await,
            Err(error) => Err(of_host(work, 0, error)),
            Ok(()) => Ok(()),
        }
    };
    let downloaded = downloaded.await;
    let ended = sender.is_closed();
    if let Err(Error::Unavailable { .. }) = &downloaded {
        // If the writer has ended, there is nothing to keep.
        let _ = sender.send(Message::Keep).await;
    }
    drop(sender);
    let written = writer.await.map_err(Error::failed("cannot write a blob"))?;
    match downloaded {
        // The error of the writer (a full disk) comes first: it ended the download.
        Err(error) if !ended => Err(error),
        Ok(()) | Err(_) => written,
    }
}

/// Begins a blob; None: it is stored. Blocking.
fn begin(work: &Work, blob: Blob) -> Result<Option<Ingest>, Error> {
    let blobs = &work.shared.blobs;
    if blobs.has_all(&blob) {
        return Ok(None);
    }
    if blobs.has(&blob.digest) {
        let size = blobs.size(&blob.digest);
        if blobs.is_whole(&blob.digest)? {
            let reason = format!("it has {size} bytes, {} were announced", blob.size);
            return Err(Error::invalid(format!("blob {}", blob.digest), reason));
        }
        tracing::warn!(blob = %blob.digest, size, "a stored blob is damaged: it is downloaded again");
        blobs.remove(&blob.digest)?;
        // It was there when the pull noted what it would store.
        work.note(Names { blobs: vec![blob.digest.clone()], chains: Vec::new() })?;
    }
    blobs.begin(blob).map(Some)
}

/// Downloads a blob again, all of it from one host, until one sends the right bytes.
async fn from_one_host(work: &Work, blob: &Blob, sender: &mpsc::Sender<Message>) -> Result<(), Error> {
    let (mut first, mut wrong) = (None, None);
    for at in work.source.with_blobs() {
        ask(sender, Message::Restart).await?;
        let parts = ingest::parts(blob.size);
        let wanted = Wanted { missing: &parts, only: Some(at) };
        let verified = match work.source.blob(blob, wanted, &work.shared.slots, sender).await {
            Ok(_) => ask(sender, Message::Verify).await,
            Err(error) => Err(error),
        };
        match verified {
            Err(error) if !sender.is_closed() => {
                let error = of_host(work, at, error);
                tracing::warn!(error = host::chain(&error), "a host does not serve a blob");
                // Wrong bytes are neither kept nor hidden behind a host that is down.
                let place = if matches!(error, Error::Invalid { .. }) { &mut wrong } else { &mut first };
                place.get_or_insert(error);
            }
            verified => return verified,
        }
    }
    Err(wrong.or(first).unwrap_or_else(|| Error::not_found(format!("blob {}", blob.digest))))
}

/// Adds the host to the error of wrong bytes.
fn of_host(work: &Work, at: usize, error: Error) -> Error {
    match error {
        Error::Invalid { what, reason } if work.source.hosts() > 0 => {
            Error::invalid(what, format!("{reason}, from {}", work.source.name(at)))
        }
        other => other,
    }
}

/// Asks the writer and waits for its answer.
async fn ask(
    sender: &mpsc::Sender<Message>,
    question: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Message,
) -> Result<(), Error> {
    let (answer, answered) = oneshot::channel();
    let gone = || Error::failed("cannot keep a blob")("nobody writes it any more");
    sender.send(question(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// Who is told of the bytes of a blob.
struct Told {
    observer: Observer,
    blob: Blob,
}

impl Told {
    fn tell(&self, phase: Phase, done: u64) {
        self.observer.tell(&self.blob.digest, phase, done, self.blob.size);
    }
}

/// Writes a blob until it is whole, or its download has ended. Blocking.
fn write(work: &Work, mut ingest: Ingest, mut messages: mpsc::Receiver<Message>, told: &Told) -> Result<(), Error> {
    told.tell(Phase::Downloading, ingest.written());
    let mut last = Instant::now();
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Piece(Piece { offset, bytes }) => {
                ingest.write(offset, &bytes)?;
                if last.elapsed() > TELLING {
                    last = Instant::now();
                    told.tell(Phase::Downloading, ingest.written());
                }
            }
            Message::Restart(answer) => drop(answer.send(ingest.restart())),
            Message::Verify(answer) => {
                let verified = ingest.verify();
                let whole = verified.is_ok();
                // The pull may have been given up.
                let _ = answer.send(verified);
                if whole {
                    told.tell(Phase::Unpacking, told.blob.size);
                    return ingest.finish();
                }
            }
            Message::Keep => {
                ingest.keep();
                return Ok(());
            }
        }
    }
    // The pull was given up or failed for good. Another one that waits for this blob resumes.
    if work.shared.locks.shared(told.blob.digest.as_str()) {
        ingest.keep();
    }
    Err(Error::failed("cannot keep a blob")("its download ended"))
}
