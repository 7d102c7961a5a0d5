//! Unpacks layers, each in a worker process, which gets the chain's directory as its working directory, the layer's blob as its
//! standard input, a read-only view of the layers below if the directory does not show them, and nothing else; of a blob that still
//! arrives, it is told how much is there. The result is checked against the image's configuration.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use host::worker::Workers;

use crate::arrivals::Arrivals;
use crate::flow::{Flow, State};
use crate::garbage::Claims;
use crate::images::Shared;
use crate::locks::hold;
use crate::records::{ImageRecord, Layer};
use crate::rootfs::{ChainId, Chains, Rootfs, Unpacking};
use crate::unpack::{BELOW, FOLLOW, Failure, Outcome, Refusal, Unpacked};
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

/// How many of an image's chains, which are pinned, need not be made. What is below a complete chain is in it.
pub(crate) fn there(shared: &Shared, chains: &[ChainId]) -> Result<usize, Error> {
    for (at, chain) in chains.iter().enumerate().rev() {
        if !shared.locks.is_going(&chain.lock()) && shared.rootfs.has(chain)? {
            return Ok(at + 1);
        }
    }
    Ok(0)
}

/// The jobs that unpack an image on top of the chains that are there, the lowest layers first; each layer comes with its compressed
/// size in bytes. Where a chain ends depends on the layers below alone, so that images with the same lower layers share chains, but
/// for the uppermost ones.
pub(crate) fn jobs(layers: &[(Layer, u64)], chains: &[ChainId], there: usize, kind: Chains) -> Vec<Job> {
    let (mut jobs, mut from, mut gathered) = (Vec::new(), there, 0);
    for end in 1..=chains.len() {
        gathered += layers.get(end - 1).map_or(0, |(_, bytes)| *bytes);
        let full = matches!(kind, Chains::Stacked { bytes_min } if gathered >= bytes_min);
        if full {
            gathered = 0;
        }
        if end > there && (full || end == chains.len()) {
            jobs.push(Job {
                chain: chains[end - 1].clone(),
                parent: from.checked_sub(1).map(|below| chains[below].clone()),
                layers: layers.iter().take(end).skip(from).map(|(layer, _)| layer.clone()).collect(),
            });
            from = end;
        }
    }
    jobs
}

impl Unpacker {
    pub(crate) fn new(workers: Workers) -> Self {
        Self { workers }
    }

    /// Unpacks the missing layers of an image and returns its uppermost chain. Blocking.
    pub(crate) fn ensure(&self, shared: &Arc<Shared>, image: &ImageRecord, pins: &Claims) -> Result<ChainId, Error> {
        let chains = image.chains();
        let top = chains.last().expect("an image has a chain even without layers").clone();
        chains.iter().for_each(|chain| pins.add(&chain.lock()));
        let layers: Vec<_> = image.layers.iter().map(|layer| (layer.clone(), shared.blobs.size(&layer.blob))).collect();
        let jobs = jobs(&layers, &chains, there(shared, &chains)?, shared.rootfs.chains());
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
            (0..job.layers.len()).for_each(|at| arrivals.unpacked(at));
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
                    self.run(&source, &unpacking, cancel)?;
                    if flow.is_some_and(|flow| !flow.outcome(round)) {
                        return Err(Arrivals::ended());
                    }
                    arrivals.unpacked(at);
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
    fn run(&self, source: &Source<'_>, target: &Unpacking, cancel: &Cancel) -> Result<(), Error> {
        let layer = source.layer;
        let operation = || format!("cannot unpack layer {}", layer.blob);
        let mut command = self.workers.command("unpack");
        command.arg(layer.diff_id.algorithm().name()).env_clear().current_dir(&target.directory).stderr(Stdio::piped());
        let (pipe, theirs) = UnixStream::pair().map_err(Error::io(operation()))?;
        command.stdin(source.file()?).stdout(OwnedFd::from(theirs));
        if source.flow.is_some() {
            command.arg(FOLLOW);
        }
        if let Some(below) = &target.below {
            command.arg(BELOW).arg(below);
        }
        let mut child = command.spawn().map_err(Error::io(operation()))?;
        // It holds the other end of the pipe.
        drop(command);
        let stderr = child.stderr.take().expect("stderr is piped");
        cancel.attach(child);
        let told = source.flow.map_or(Ok(()), |flow| tell(flow, source.round, &pipe, cancel));
        let answer = told.and_then(|()| unless_over(pipe.shutdown(Shutdown::Write))).and_then(|()| read(pipe));
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
            Err(error) if is_over(&error) => return Ok(()),
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

/// Reads to the end. A worker that ended before it had read all that it was told resets the connection behind its answer.
fn read(pipe: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    unless_over(pipe.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).map(drop))?;
    Ok(bytes)
}

/// Takes it for no error that the worker has ended.
fn unless_over(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|error| if is_over(&error) { Ok(()) } else { Err(error) })
}

/// Whether the worker has ended, as a socket tells: a write by EPIPE, Linux behind the answer by ECONNRESET if there is something
/// that the worker has not read, and FreeBSD when messages are ended by ENOTCONN (`uipc_shutdown` in kern/uipc_usrreq.c).
fn is_over(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::{Cancel, jobs, read, tell, unless_over};
    use crate::Digest;
    use crate::flow::Flow;
    use crate::records::{Layer, chains};
    use crate::rootfs::Chains;

    #[test]
    fn a_chain_ends_where_its_layers_are_large_enough_or_the_image_ends() {
        let digest = |name: usize| Digest::of(name.to_string().as_bytes());
        let layer = |name: usize| Layer { blob: digest(name), diff_id: digest(name) };
        let stacked = |bytes_min| Chains::Stacked { bytes_min };
        for (sizes, there, kind, expected) in [
            (&[1, 1, 1][..], 0, stacked(0), &[(0, 1), (1, 2), (2, 3)][..]),
            (&[1, 1, 1], 2, stacked(0), &[(2, 3)]),
            (&[1, 1, 1], 3, stacked(0), &[]),
            (&[3, 5, 1, 1, 9, 1], 0, stacked(5), &[(0, 2), (2, 5), (5, 6)]),
            // Another image's uppermost chain is there, between two ends.
            (&[3, 5, 1, 1, 9, 1], 1, stacked(5), &[(1, 2), (2, 5), (5, 6)]),
            (&[3, 5, 1, 1, 9, 1], 4, stacked(5), &[(4, 5), (5, 6)]),
            (&[9, 9, 9], 0, Chains::Trees, &[(0, 3)]),
            (&[9, 9, 9], 1, Chains::Trees, &[(1, 3)]),
            (&[9, 9, 9], 3, Chains::Trees, &[]),
            (&[], 0, stacked(5), &[(0, 1)]),
            (&[], 1, stacked(5), &[]),
        ] {
            let layers: Vec<_> = sizes.iter().enumerate().map(|(name, bytes)| (layer(name), *bytes)).collect();
            let chains = chains(layers.iter().map(|(layer, _)| &layer.diff_id));
            let found = jobs(&layers, &chains, there, kind);
            let found: Vec<_> =
                found.iter().map(|job| (job.parent.clone(), job.chain.clone(), job.layers.clone())).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(from, to): &(usize, usize)| {
                    let below = from.checked_sub(1).map(|below| chains[below].clone());
                    (below, chains[to - 1].clone(), (*from..(*to).min(layers.len())).map(layer).collect::<Vec<_>>())
                })
                .collect();
            assert_eq!(found, expected, "{sizes:?} on {there}, {kind:?}");
        }
    }

    #[test]
    fn a_worker_that_refuses_before_it_was_told_all_is_heard() {
        let flow = Flow::new(tempfile::tempfile().unwrap(), 100);
        flow.advance(100);
        let (ours, mut worker) = UnixStream::pair().unwrap();
        let told = || tell(&flow, 0, &ours, &Cancel::default());
        told().unwrap();
        worker.write_all(b"refused").unwrap();
        // It has not read what it was told.
        drop(worker);
        told().unwrap();
        unless_over(ours.shutdown(Shutdown::Write)).unwrap();
        assert_eq!(read(ours).unwrap(), b"refused");
    }
}
