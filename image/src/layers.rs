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

/// One layer to unpack on top of another chain; no layer: an empty directory.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) chain: ChainId,
    pub(crate) parent: Option<ChainId>,
    pub(crate) layer: Option<Layer>,
}

/// The jobs that unpack an image, the lowest layer first.
pub(crate) fn jobs(layers: &[Layer], chains: &[ChainId]) -> Vec<Job> {
    let job = |(at, chain): (usize, &ChainId)| Job {
        chain: chain.clone(),
        parent: at.checked_sub(1).map(|below| chains[below].clone()),
        layer: layers.get(at).cloned(),
    };
    chains.iter().enumerate().map(job).collect()
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
        if !shared.rootfs.has(&top)? {
            let noted = shared.unsettled.noted();
            noted.add(Names { blobs: Vec::new(), chains: chains.clone() })?;
            for job in jobs(&image.layers, &chains) {
                let _lock = shared.locks.blocking_lock(&job.chain.lock());
                self.unpack(shared, &job, None, &Cancel::default())?;
            }
            drop(noted);
            shared.settle_soon();
        }
        Ok(top)
    }

    /// Unpacks one layer unless its chain exists; a failure leaves nothing behind. `flow`: the blob still arrives, and is waited
    /// for. The caller holds the chain's lock. Blocking.
    pub(crate) fn unpack(&self, shared: &Shared, job: &Job, flow: Option<&Flow>, cancel: &Cancel) -> Result<(), Error> {
        let rootfs: &dyn Rootfs = &*shared.rootfs;
        if rootfs.has(&job.chain)? {
            return Ok(());
        }
        loop {
            let round = flow.map_or(0, |flow| flow.now().round);
            let unpacked = rootfs.begin(&job.chain, job.parent.as_ref()).and_then(|unpacking| {
                if let Some(layer) = &job.layer {
                    let source = Source { blobs: &shared.blobs, layer, flow, round };
                    self.run(&source, &unpacking.directory, cancel)?;
                }
                if flow.is_some_and(|flow| !flow.outcome(round)) {
                    return Err(Error::unavailable("cannot unpack a layer")("its download ended"));
                }
                rootfs.commit(&unpacking)
            });
            let Err(error) = unpacked else { return Ok(()) };
            if let Err(error) = rootfs.remove_chain(&job.chain) {
                tracing::warn!(chain = job.chain.0, error = host::chain(&error), "cannot remove a layer half unpacked");
            }
            let Some(flow) = flow else { return Err(error) };
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
