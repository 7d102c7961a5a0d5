//! A pull: resolves the reference, chooses a platform, gets the configuration, downloads the layers side by side, unpacks them in
//! order while they arrive, and writes the record. Two pulls share the work, since blobs and chains are locked meanwhile; they are
//! pinned until an image references them, and collected if the pull fails. Where that is the registry's doing, blobs are set aside.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::arrivals::Arrivals;
use crate::document::{Blob, Config, Document, parse_config, parse_manifest};
use crate::fetch::fetch;
use crate::garbage::{Claims, Unneeded};
use crate::images::{Image, Shared};
use crate::ingest::PART;
use crate::layers::{self, Cancel, Job, jobs};
use crate::locks::hold;
use crate::platform::{Platform, choose, mismatch};
use crate::records::{ImageRecord, Layer, chains};
use crate::registry::{Asking, Source};
use crate::unsettled::{Names, Noted};
use crate::{Credentials, Digest, Error, Observer, Phase, Reference, Target};

/// Layers of one image that are downloaded side by side: with small ones, requests overlap; what is fetched ahead waits on the disk.
const DOWNLOADS: usize = 6;
/// How many of [`DOWNLOADS`] a layer of several parts counts for: it can fill a line alone, and lower layers are unpacked first.
const LARGE: u32 = 3;
/// Why a single manifest of another platform is refused.
const NO_OTHER: &str = "it has no index with other platforms, and this node cannot run its programs";
/// Nested indexes; usual images have one.
const INDEX_DEPTH_MAX: usize = 4;

/// An image before its layers are downloaded.
struct Plan {
    /// Indexes and manifests with their sizes; the reference names the first.
    documents: Vec<Blob>,
    config_blob: Blob,
    config: Config,
    layers: Vec<Blob>,
}

/// A running pull. Each of its threads holds a clone, so that the pins last until the last thread ends.
pub(crate) struct Work {
    pub(crate) shared: Arc<Shared>,
    pub(crate) source: Source,
    pub(crate) observer: Observer,
    /// What it stores and is not synced yet.
    noted: Noted,
    pins: Claims,
    /// What becomes of its blobs; None: an image references them.
    unneeded: Mutex<Option<Unneeded>>,
}

impl Work {
    pub(crate) fn new(shared: &Arc<Shared>, source: Source, observer: Observer) -> Arc<Self> {
        let pins = Claims::new(shared);
        let noted = shared.unsettled.noted();
        Arc::new(Self {
            shared: Arc::clone(shared),
            source,
            observer,
            noted,
            pins,
            unneeded: Some(Unneeded::Removed).into(),
        })
    }

    pub(crate) fn pin(&self, name: &str) {
        self.pins.add(name);
    }

    /// Pins blobs, and notes what is about to be stored, unless it is there. Blocking.
    pub(crate) fn note(&self, names: Names) -> Result<(), Error> {
        let Shared { locks, blobs, .. } = &*self.shared;
        names.blobs.iter().for_each(|digest| self.pin(digest.as_str()));
        let is_missing = |digest: &Digest| locks.is_going(digest.as_str()) || !blobs.has(digest);
        let blobs = names.blobs.into_iter().filter(is_missing).collect();
        self.noted.add(Names { blobs, chains: names.chains })
    }

    fn tell(&self, blob: &Blob, phase: Phase, done: u64) {
        self.observer.tell(&blob.digest, phase, done, blob.size);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.shared.memory.give_back_soon();
        self.shared.settle_soon();
        if let Some(unneeded) = *hold(&self.unneeded) {
            self.pins.let_go(unneeded);
        }
    }
}

/// Pulls an image.
pub(crate) async fn pull(
    shared: &Arc<Shared>,
    text: &str,
    credentials: Credentials,
    observer: Observer,
) -> Result<Image, Error> {
    let reference = Reference::parse(text)?;
    let _slot = shared.pulls.acquire().await.expect("the semaphore is never closed");
    let asked = Arc::clone(shared);
    let named = reference.clone();
    let source = blocking(move || {
        let own = if credentials == Credentials::default() { asked.hosts.credentials(&named)? } else { None };
        let (timeout, down) = (asked.registry_timeout, Arc::clone(&asked.down));
        let asking = Asking { credentials: own.unwrap_or(credentials), timeout, down };
        Source::new(asked.hosts.of(named.domain())?, &named, &asking)
    });
    let source = source.await?;
    let work = Work::new(shared, source, observer);
    let made = fetch_image(&work, &reference).await.inspect_err(|error| {
        *hold(&work.unneeded) = Some(match error {
            error if host::is_exhausted(error) => Unneeded::Reclaimed,
            // The next one goes on from there.
            Error::Unavailable { .. } => Unneeded::SetAside,
            _ => Unneeded::Removed,
        });
    });
    let (record, meant) = made?;
    let keeper = Arc::clone(&work);
    let record = blocking(move || {
        let record = hold(&keeper.shared.records).add(record, &reference, &meant)?;
        *hold(&keeper.unneeded) = None;
        Ok(record)
    })
    .await?;
    Ok(Image::from(&record))
}

/// Makes all of an image but its record: its blobs, its chains. Returns the record without names, and the digest that the reference
/// leads to.
pub(crate) async fn fetch_image(work: &Arc<Work>, reference: &Reference) -> Result<(ImageRecord, Digest), Error> {
    let plan = plan(work, reference).await?;
    let layers: Vec<Layer> = plan
        .layers
        .iter()
        .zip(&plan.config.diff_ids)
        .map(|(blob, diff_id)| Layer { blob: blob.digest.clone(), diff_id: diff_id.clone() })
        .collect();
    make(work, &plan.layers, &layers).await?;
    let record = ImageRecord {
        id: plan.config_blob.digest.clone(),
        tags: [].into(),
        digests: [].into(),
        documents: plan.documents.iter().map(|blob| blob.digest.clone()).collect(),
        size: plan.documents.iter().chain([&plan.config_blob]).chain(&plan.layers).map(|blob| blob.size).sum(),
        layers,
        others: [].into(),
        config: plan.config.image,
    };
    let meant = plan.documents[0].digest.clone();
    Ok((record, meant))
}

/// Runs blocking work on a thread, to its end even if the pull is cancelled.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(Error::failed("cannot finish a pull"))?
}

/// Follows the reference to a manifest and its configuration.
async fn plan(work: &Arc<Work>, reference: &Reference) -> Result<Plan, Error> {
    let wanted = &work.shared.platforms;
    let (mut documents, mut contents) = (Vec::<Blob>::new(), Vec::new());
    let mut target = reference.target().clone();
    // What the index says of the image's platform, or else the node's own.
    let mut platform = wanted[0].clone();
    let (config_blob, layers) = loop {
        let bytes = document(work, &target, documents.is_empty()).await?;
        let digest = match &target {
            Target::Digest(digest) => digest.clone(),
            Target::Tag(_) => Digest::of(&bytes),
        };
        let blob = Blob::new(digest, bytes.len() as u64);
        if documents.contains(&blob) || documents.len() > INDEX_DEPTH_MAX {
            return Err(Error::invalid(format!("image {reference}"), "its indexes lead in a circle or too deep"));
        }
        let parsed = parse_manifest(&bytes).map_err(|error| of(reference, error))?;
        contents.push(bytes);
        documents.push(blob);
        match parsed {
            Document::Manifest { config, layers } => break (config, layers),
            Document::Index(entries) => {
                let (entry, offered) = chosen(reference, wanted, &entries)?;
                target = Target::Digest(entry.digest);
                platform = offered.unwrap_or(platform);
            }
        }
    };
    store(work, &documents, contents, &config_blob).await?;
    fetch(work, &config_blob, None).await?;
    let shared = Arc::clone(&work.shared);
    let blob = config_blob.clone();
    let mut config =
        blocking(move || parse_config(&shared.blobs.read(&blob)?)).await.map_err(|error| of(reference, error))?;
    config.complete(&platform);
    check_platform(reference, wanted, &config.platform, documents.len() == 1)?;
    if config.diff_ids.len() != layers.len() {
        let reason = format!("its manifest has {} layers, its configuration {}", layers.len(), config.diff_ids.len());
        return Err(Error::invalid(format!("image {reference}"), reason));
    }
    Ok(Plan { documents, config_blob, config, layers })
}

/// Refuses an image for another platform, and one that is too new for the kernel. Without an index (`alone`) only the configuration
/// names the platform. containerd refuses such an image too: its programs would end with `Exec format error` at every start, and the
/// pull is where that can still be explained.
fn check_platform(reference: &Reference, wanted: &[Platform], of: &Platform, alone: bool) -> Result<(), Error> {
    let runs = wanted.iter().any(|wanted| wanted.runs(of));
    if wanted.iter().any(|wanted| wanted.accepts(of)) || !(runs || alone) {
        return Ok(());
    }
    let offered = mismatch(wanted, &[Some(of.clone())]);
    let reason = if runs { offered } else { format!("{offered}: {NO_OTHER}") };
    Err(Error::invalid(format!("image {reference}"), reason))
}

/// Adds the image to the error of a malformed document.
fn of(reference: &Reference, error: Error) -> Error {
    match error {
        Error::Invalid { what, reason } => Error::invalid(format!("image {reference}"), format!("{what}: {reason}")),
        other => other,
    }
}

/// Chooses an entry of an index. An entry without a platform is the fall-back.
fn chosen(
    reference: &Reference,
    wanted: &[Platform],
    entries: &[(Blob, Option<Platform>)],
) -> Result<(Blob, Option<Platform>), Error> {
    let offers: Vec<_> = entries.iter().map(|(_, platform)| platform.clone()).collect();
    let found = choose(wanted, &offers).or_else(|| offers.iter().position(Option::is_none));
    let found = found.ok_or_else(|| Error::invalid(format!("image {reference}"), mismatch(wanted, &offers)))?;
    Ok(entries[found].clone())
}

/// Gets a manifest or an index. Always requests the first one, even if it is stored: the registry may deny this client access.
async fn document(work: &Arc<Work>, target: &Target, first: bool) -> Result<Vec<u8>, Error> {
    if let (Target::Digest(digest), false) = (target, first && !work.source.is_archive()) {
        work.pin(digest.as_str());
        let (shared, digest) = (Arc::clone(&work.shared), digest.clone());
        let read = move || shared.blobs.read(&Blob::new(digest, crate::document::MANIFEST_BYTES_MAX));
        if let Ok(bytes) = blocking(read).await {
            return Ok(bytes);
        }
    }
    work.source.manifest(target).await
}

/// Stores the documents, and notes the configuration before it is downloaded.
async fn store(work: &Arc<Work>, blobs: &[Blob], contents: Vec<Vec<u8>>, config: &Blob) -> Result<(), Error> {
    let all = blobs.iter().chain([config]).map(|blob| blob.digest.clone()).collect();
    note(work, Names { blobs: all, chains: Vec::new() }).await?;
    for (blob, bytes) in blobs.iter().cloned().zip(contents) {
        let lock = work.shared.locks.lock(blob.digest.as_str()).await;
        let work = Arc::clone(work);
        blocking(move || {
            let _lock = lock;
            work.shared.blobs.put(&blob, &bytes)
        })
        .await?;
    }
    Ok(())
}

/// [`Work::note`] on a thread.
async fn note(work: &Arc<Work>, names: Names) -> Result<(), Error> {
    let work = Arc::clone(work);
    blocking(move || work.note(names)).await
}

/// Downloads and unpacks missing layers.
async fn make(work: &Arc<Work>, blobs: &[Blob], layers: &[Layer]) -> Result<(), Error> {
    let chains = chains(layers.iter().map(|layer| &layer.diff_id));
    chains.iter().for_each(|chain| work.pin(&chain.lock()));
    let (shared, asked) = (Arc::clone(&work.shared), chains.clone());
    for blob in blobs {
        work.tell(blob, Phase::Waiting, 0);
    }
    let there = blocking(move || layers::there(&shared, &asked)).await?;
    let (unpacked, missing) = blobs.split_at(there.min(blobs.len()));
    for blob in unpacked {
        work.tell(blob, Phase::Complete, blob.size);
    }
    let sized: Vec<_> = layers.iter().cloned().zip(blobs.iter().map(|blob| blob.size)).collect();
    let jobs = jobs(&sized, &chains, there, work.shared.rootfs.chains());
    let named = blobs.iter().map(|blob| blob.digest.clone()).collect();
    note(work, Names { blobs: named, chains: jobs.iter().map(|job| job.chain.clone()).collect() }).await?;
    let (begun, ready): (Vec<_>, Vec<_>) = missing
        .iter()
        .map(|blob| {
            let (begun, ready) = oneshot::channel();
            ((blob.clone(), Some(begun)), (blob.clone(), ready))
        })
        .unzip();
    // A container may have kept a chain whose image, and with it the blobs, was removed: an export wants them.
    let kept: Vec<_> = unpacked.iter().map(|blob| (blob.clone(), None)).collect();
    let slots = &Semaphore::new(DOWNLOADS);
    let downloads = stream::iter(begun.into_iter().chain(kept))
        .map(|(blob, begun)| async move {
            let slot = slots.acquire_many(if blob.size > PART { LARGE } else { 1 }).await;
            let _slot = slot.expect("it is never closed");
            fetch(work, &blob, begun).await
        })
        .buffered(DOWNLOADS)
        .try_collect::<()>();
    let mut ready = ready.into_iter();
    let unpacking = async {
        for job in jobs {
            let (blobs, begun): (Vec<Blob>, _) = ready.by_ref().take(job.layers.len()).unzip();
            let telling = Arc::clone(work);
            let unpacked = move |at: usize| telling.tell(&blobs[at], Phase::Complete, blobs[at].size);
            let Some(arrivals) = Arrivals::of(begun, Box::new(unpacked)).await else { return failed_elsewhere().await };
            unpack(work, job, arrivals).await?;
        }
        Ok(())
    };
    futures::try_join!(downloads, unpacking).map(|((), ())| ())
}

/// Waits for the error of the download, which says more than that of an unpacking without its bytes.
async fn failed_elsewhere() -> Result<(), Error> {
    std::future::pending().await
}

/// Unpacks the layers of a job on a thread. If the pull is cancelled, kills the worker, and the thread still finishes its clean-up.
async fn unpack(work: &Arc<Work>, job: Job, arrivals: Arrivals) -> Result<(), Error> {
    let lock = work.shared.locks.lock(&job.chain.lock()).await;
    let (cancel, arrivals) = (Arc::new(Cancel::default()), Arc::new(arrivals));
    let _given_up = GivenUp(Arc::clone(&cancel));
    let (working, arriving) = (Arc::clone(work), Arc::clone(&arrivals));
    let unpacked = blocking(move || {
        let _lock = lock;
        working.shared.unpacker.unpack(&working.shared, &job, &arriving, &cancel)
    });
    match unpacked.await {
        Err(_) if arrivals.have_failed() => failed_elsewhere().await,
        unpacked => unpacked,
    }
}

/// Kills the worker when the pull is dropped. Has no effect after the worker's end.
struct GivenUp(Arc<Cancel>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
