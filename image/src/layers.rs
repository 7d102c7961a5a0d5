//! Unpacks layers, each in a worker process, which gets the chain's directory as its working directory and the layer's blob as
//! its standard input, and nothing else; of a blob that still arrives, it is told how much is there. The result is checked against
//! the image's configuration.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use host::worker::Workers;
use tokio::sync::oneshot;

use crate::flow::{Flow, State};
use crate::images::Shared;
use crate::locks::{Pins, hold};
use crate::records::{ImageRecord, Layer};
use crate::rootfs::{ChainId, Rootfs};
use crate::unpack::{FOLLOW, Failure, Outcome, Refusal, Unpacked};
use crate::unsettled::Names;
use crate::{Error, blobs::Blobs};

/// Bytes of a worker's standard output, and of its standard error.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Starts the workers.
#[derive(Debug)]
pub(crate) struct Unpacker {
    workers: Workers,
}

/// Layers to unpack on top of another chain, one after the other in one directory; no layer: an empty directory.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) chain: ChainId,
    pub(crate) parent: Option<ChainId>,
    pub(crate) layers: Vec<Layer>,
}

/// How many of an image's chains need not be made. What is below a complete chain is in it.
pub(crate) fn there(rootfs: &dyn Rootfs, chains: &[ChainId]) -> Result<usize, Error> {
    for (at, chain) in chains.iter().enumerate().rev() {
        if rootfs.has(chain)? {
            return Ok(at + 1);
        }
    }
    Ok(0)
}

/// The jobs that unpack an image on top of the chains that are there, the lowest layers first.
pub(crate) fn jobs(layers: &[Layer], chains: &[ChainId], there: usize, stacks: bool) -> Vec<Job> {
    let job = |from: usize, to: usize| Job {
        chain: chains[to - 1].clone(),
        parent: from.checked_sub(1).map(|below| chains[below].clone()),
        layers: layers.get(from..to).unwrap_or_default().to_vec(),
    };
    match there..chains.len() {
        missing if stacks => missing.map(|at| job(at, at + 1)).collect(),
        missing if missing.is_empty() => Vec::new(),
        missing => vec![job(missing.start, missing.end)],
    }
}

/// Where the layers of a job come from, and who is told of each that is unpacked.
pub(crate) struct Arrivals {
    layers: Mutex<Vec<Arrival>>,
    unpacked: Told,
}

/// Is told the number of a layer.
type Told = Box<dyn Fn(usize) + Send + Sync>;

/// Brings the flow of a blob when its download begins; None: it is stored.
pub(crate) type Beginning = oneshot::Receiver<Option<Arc<Flow>>>;

#[derive(Debug)]
enum Arrival {
    /// Its download has not begun yet.
    Waiting(Beginning),
    /// It arrives; None: it is stored.
    Known(Option<Arc<Flow>>),
    /// It will not come.
    Lost,
}

impl Arrivals {
    /// Layers that are stored.
    fn stored(count: usize) -> Self {
        let layers = (0..count).map(|_| Arrival::Known(None)).collect();
        Self { layers: Mutex::new(layers), unpacked: Box::new(|_| ()) }
    }

    /// Layers whose downloads begin in this order. Waits for the first one; None: it will not come.
    pub(crate) async fn of(begun: Vec<Beginning>, unpacked: Told) -> Option<Self> {
        let mut begun = begun.into_iter();
        let mut layers = Vec::new();
        if let Some(first) = begun.next() {
            layers.push(Arrival::Known(first.await.ok()?));
        }
        layers.extend(begun.map(Arrival::Waiting));
        Some(Self { layers: Mutex::new(layers), unpacked })
    }

    /// The flow of a layer, once its download has begun; None: it is stored. Blocking.
    fn flow(&self, at: usize) -> Result<Option<Arc<Flow>>, Error> {
        let arrival = &mut hold(&self.layers)[at];
        *arrival = match std::mem::replace(arrival, Arrival::Lost) {
            Arrival::Waiting(begun) => begun.blocking_recv().map_or(Arrival::Lost, Arrival::Known),
            known => known,
        };
        match arrival {
            Arrival::Known(flow) => Ok(flow.clone()),
            _ => Err(ended()),
        }
    }

    /// Whether a download failed: its error says more than that of an unpacking without its bytes.
    pub(crate) fn have_failed(&self) -> bool {
        hold(&self.layers).iter().any(|arrival| match arrival {
            Arrival::Known(Some(flow)) => flow.now().ended == Some(false),
            Arrival::Lost => true,
            _ => false,
        })
    }
}

fn ended() -> Error {
    Error::unavailable("cannot unpack a layer")("its download ended")
}

impl Unpacker {
    pub(crate) fn new(workers: Workers) -> Self {
        Self { workers }
    }

    /// Unpacks the missing layers of an image and returns its uppermost chain. Blocking.
    pub(crate) fn ensure(&self, shared: &Arc<Shared>, image: &ImageRecord, pins: &Pins) -> Result<ChainId, Error> {
        let chains = image.chains();
        let top = chains.last().expect("an image has a chain even without layers").clone();
        chains.iter().for_each(|chain| pins.add(&chain.lock()));
        let jobs = jobs(&image.layers, &chains, there(&*shared.rootfs, &chains)?, shared.rootfs.stacks());
        if !jobs.is_empty() {
            let noted = shared.unsettled.noted();
            noted.add(Names { blobs: Vec::new(), chains: jobs.iter().map(|job| job.chain.clone()).collect() })?;
            for job in jobs {
                let _lock = shared.locks.blocking_lock(&job.chain.lock());
                self.unpack(shared, &job, &Arrivals::stored(job.layers.len()), &Cancel::default())?;
            }
            drop(noted);
            shared.settle_soon();
        }
        Ok(top)
    }

    /// Unpacks the layers of a job unless its chain exists; a failure leaves nothing behind. Waits for layers that still arrive. The
    /// caller holds the chain's lock. Blocking.
    pub(crate) fn unpack(&self, shared: &Shared, job: &Job, arrivals: &Arrivals, cancel: &Cancel) -> Result<(), Error> {
        let rootfs: &dyn Rootfs = &*shared.rootfs;
        if rootfs.has(&job.chain)? {
            (0..job.layers.len()).for_each(&arrivals.unpacked);
            return Ok(());
        }
        loop {
            // The layer that is being unpacked, and the round of its download.
            let mut current = None;
            let made = rootfs.begin(&job.chain, job.parent.as_ref()).and_then(|unpacking| {
                for (at, layer) in job.layers.iter().enumerate() {
                    let flow = arrivals.flow(at)?;
                    let round = flow.as_ref().map_or(0, |flow| flow.now().round);
                    current = flow.clone().map(|flow| (flow, round));
                    let source = Source { blobs: &shared.blobs, layer, flow: flow.as_deref(), round };
                    self.run(&source, &unpacking.directory, cancel)?;
                    if flow.is_some_and(|flow| !flow.outcome(round)) {
                        return Err(ended());
                    }
                    (arrivals.unpacked)(at);
                }
                rootfs.commit(&unpacking)
            });
            let Err(error) = made else { return Ok(()) };
            if let Err(error) = rootfs.remove_chain(&job.chain) {
                tracing::warn!(chain = job.chain.0, error = host::chain(&error), "cannot remove a layer half unpacked");
            }
            let Some((flow, round)) = current else { return Err(error) };
            // Whether the bytes were the right ones is known at the end of the download only.
            if matches!(error, Error::Invalid { .. }) && flow.outcome(round) {
                return Err(error);
            }
            // It has begun anew: what was unpacked were other bytes.
            if flow.now().round == round || cancel.is_cancelled() {
                return Err(error);
            }
        }
    }

    /// Runs a worker to its end and checks its result.
    fn run(&self, source: &Source<'_>, directory: &Path, cancel: &Cancel) -> Result<(), Error> {
        let layer = source.layer;
        let operation = || format!("cannot unpack layer {}", layer.blob);
        let mut command = self.workers.command("unpack");
        command.arg(layer.diff_id.algorithm().name()).env_clear().current_dir(directory).stderr(Stdio::piped());
        let (pipe, theirs) = UnixStream::pair().map_err(Error::io(operation()))?;
        command.stdin(source.file()?).stdout(OwnedFd::from(theirs));
        if source.flow.is_some() {
            command.arg(FOLLOW);
        }
        let mut child = command.spawn().map_err(Error::io(operation()))?;
        // It holds the other end of the pipe.
        drop(command);
        let stderr = child.stderr.take().expect("stderr is piped");
        cancel.attach(child);
        let told = source.flow.map_or(Ok(()), |flow| tell(flow, source.round, &pipe, cancel));
        let answer = told.and_then(|()| pipe.shutdown(Shutdown::Write)).and_then(|()| read(pipe));
        let answer = answer.and_then(|answer| Ok((answer, read(stderr)?)));
        let status = cancel.detach().map(|mut child| child.wait());
        let (answer, complaint) = answer.map_err(Error::io(operation()))?;
        let Some(status) = status else {
            return Err(Error::unavailable(operation())("the pull was given up"));
        };
        let status = status.map_err(Error::io(operation()))?;
        match serde_json::from_slice::<Outcome>(&answer) {
            Ok(Outcome::Unpacked(Unpacked { diff_id, .. })) if diff_id == layer.diff_id => Ok(()),
            Ok(Outcome::Unpacked(Unpacked { diff_id, .. })) => {
                let reason = format!("its contents have the digest {diff_id}, its image says {}", layer.diff_id);
                Err(Error::invalid(format!("layer {}", layer.blob), reason))
            }
            Ok(Outcome::Refused(Failure { refusal, reason })) => Err(match refusal {
                Refusal::Invalid => Error::invalid(format!("layer {}", layer.blob), reason),
                Refusal::Full => Error::unavailable(operation())(host::Exhausted(reason)),
                Refusal::Failed => Error::failed(operation())(reason),
            }),
            Err(_) => {
                let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
                Err(Error::failed(operation())(format!("the worker ended with {status}: {complaint}")))
            }
        }
    }
}

/// Where a layer is read from.
struct Source<'a> {
    blobs: &'a Blobs,
    layer: &'a Layer,
    flow: Option<&'a Flow>,
    /// The flow's round when the layer was begun.
    round: u32,
}

impl Source<'_> {
    fn file(&self) -> Result<File, Error> {
        let failed = || format!("cannot open blob {}", self.layer.blob);
        match self.flow {
            Some(flow) => flow.file.try_clone().map_err(Error::io(failed())),
            None => self.blobs.file(&self.layer.blob),
        }
    }
}

/// Tells a worker how large the blob is and, again and again, how much of it is there. If the download ends or begins anew, kills
/// the worker. A worker that takes no more has its answer ready.
fn tell(flow: &Flow, round: u32, mut pipe: &UnixStream, cancel: &Cancel) -> std::io::Result<()> {
    let (mut known, mut told) = (State::of_round(round), flow.total);
    loop {
        match pipe.write_all(&told.to_le_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        if known.bytes == flow.total {
            return Ok(());
        }
        let now = flow.wait(known);
        if now.round != known.round || now.ended == Some(false) {
            cancel.stop();
            return Ok(());
        }
        (known, told) = (now, now.bytes);
    }
}

fn read(pipe: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lets another thread kill a worker: a pull that was cancelled stops unpacking.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    state: Mutex<CancelState>,
}

#[derive(Debug, Default)]
struct CancelState {
    cancelled: bool,
    child: Option<Child>,
}

impl Cancel {
    /// Kills the worker, now or as soon as it starts.
    pub(crate) fn cancel(&self) {
        let mut state = hold(&self.state);
        state.cancelled = true;
        state.child.iter_mut().for_each(kill);
    }

    /// Kills the worker, and only this one.
    fn stop(&self) {
        hold(&self.state).child.iter_mut().for_each(kill);
    }

    fn is_cancelled(&self) -> bool {
        hold(&self.state).cancelled
    }

    fn attach(&self, mut child: Child) {
        let mut state = hold(&self.state);
        if state.cancelled {
            kill(&mut child);
        }
        state.child = Some(child);
    }

    /// Returns the worker for the caller to wait for. If it was cancelled, waits for it here and returns None.
    fn detach(&self) -> Option<Child> {
        let mut state = hold(&self.state);
        let child = state.child.take();
        if !state.cancelled {
            return child;
        }
        // It was killed, so this wait is short.
        child.map(|mut child| child.wait());
        None
    }
}

fn kill(child: &mut Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(%error, "cannot kill an unpacking worker");
    }
}
