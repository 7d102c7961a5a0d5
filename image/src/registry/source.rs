//! The sources of one image: its mirrors in their order, then the registry itself. After a permanent failure the next host is
//! tried, after a transient one the same host again. A host that cannot be reached, or says nothing, is asked once as long as there
//! is another one, and last for a while.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::Registry;
use super::{Down, Failure};
use crate::document::Blob;
use crate::hosts::Endpoint;
use crate::{Credentials, Error, Reference, Target};

/// Attempts at one host, and the pause before the second one; it doubles for each further attempt.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(300);
/// Bytes that a download must bring within the time-out, unless it ends: slower than an old modem is no progress.
const PROGRESS_BYTES: u64 = 64 << 10;

/// The hosts that have an image.
pub(crate) struct Source {
    registries: Vec<Registry>,
    reference: Reference,
    down: Arc<Down>,
    /// An archive, all of whose blobs are in the content store already, and no host.
    archive: bool,
}

/// How hosts are asked.
pub(crate) struct Asking {
    pub(crate) credentials: Credentials,
    /// How long a host may stay silent, and a document may take.
    pub(crate) timeout: Duration,
    /// Hosts that could not be reached lately.
    pub(crate) down: Arc<Down>,
}

/// A message from a download to the writer of the blob.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// Discard the bytes so far.
    Restart,
    /// The download is complete.
    End,
}

/// One host of those that are asked in turn.
#[derive(Clone, Copy)]
struct Turn<'a> {
    registry: &'a Registry,
    /// Another host follows: this one is not waited for.
    has_next: bool,
    /// It could not be reached lately.
    down: bool,
}

impl Turn<'_> {
    /// The pause before the next attempt after a failure; None: there is none.
    fn pause(&self, failure: &Failure, attempt: u32) -> Option<Duration> {
        let usual = PAUSE * 2u32.pow(attempt - 1);
        match failure {
            _ if attempt >= ATTEMPTS => None,
            Failure::Transient(_, asked) => Some(asked.unwrap_or(usual)),
            Failure::Unreachable { passing: true, .. } if !self.has_next && !self.down => Some(usual),
            Failure::Unreachable { .. } | Failure::Permanent(_) => None,
        }
    }
}

impl Source {
    /// Prepares the clients of these hosts. Reads certificate files: blocking.
    pub(crate) fn new(endpoints: Vec<Endpoint>, reference: &Reference, asking: &Asking) -> Result<Self, Error> {
        let registry = |endpoint| Registry::new(endpoint, reference, &asking.credentials, asking.timeout);
        let registries = endpoints.into_iter().map(registry).collect::<Result<_, _>>()?;
        Ok(Self { registries, reference: reference.clone(), down: Arc::clone(&asking.down), archive: false })
    }

    /// The source of images that come from an archive: what the content store lacks is nowhere.
    pub(crate) fn of_archive(reference: &Reference) -> Self {
        Self { registries: Vec::new(), reference: reference.clone(), down: Arc::default(), archive: true }
    }

    /// Whether it is an archive.
    pub(crate) fn is_archive(&self) -> bool {
        self.archive
    }

    /// The hosts in their order, but those last that could not be reached lately.
    fn turns(&self, fits: impl Fn(&Registry) -> bool) -> Vec<Turn<'_>> {
        let fitting = self.registries.iter().filter(|registry| fits(registry));
        let turn = |registry| Turn { registry, has_next: true, down: self.down.has(&registry.endpoint.base) };
        let (down, mut turns): (Vec<_>, Vec<_>) = fitting.map(turn).partition(|turn| turn.down);
        turns.extend(down);
        if let Some(last) = turns.last_mut() {
            last.has_next = false;
        }
        turns
    }

    /// Gets a manifest or an index.
    pub(crate) async fn manifest(&self, target: &Target) -> Result<Vec<u8>, Error> {
        let mut errors = Errors::default();
        for turn in self.turns(|registry| match target {
            Target::Tag(_) => registry.endpoint.resolve,
            Target::Digest(_) => registry.endpoint.pull || registry.endpoint.resolve,
        }) {
            let mut attempt = 1;
            loop {
                match turn.registry.manifest(target, turn.has_next).await {
                    Ok(bytes) => {
                        self.down.heard(&turn.registry.endpoint.base);
                        return Ok(bytes);
                    }
                    Err(failure) => match turn.pause(&failure, attempt) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => {
                            self.note(turn.registry, &failure);
                            break errors.add(turn.registry, failure);
                        }
                    },
                }
                attempt += 1;
            }
        }
        Err(errors.telling().unwrap_or_else(|| self.nobody("resolve", &target_text(target))))
    }

    /// Downloads a blob in pieces. Resumes after a broken connection.
    pub(crate) async fn blob(&self, blob: &Blob, pieces: &mpsc::Sender<Piece>) -> Result<(), Error> {
        let mut errors = Errors::default();
        let turns = self.turns(|registry| registry.endpoint.pull);
        // The addresses of a layer that the registry need not have come last: it may have the layer all the same.
        let last = turns.last().map(|turn| Turn { has_next: false, ..*turn });
        let own = turns.into_iter().map(|turn| (turn, None));
        let foreign = blob.urls.iter().filter_map(|url| Some((last?, Some(Url::parse(url).ok()?))));
        for (turn, url) in own.chain(foreign) {
            let (mut done, mut attempt) = (0, 1);
            let from = From { turn, blob, url: url.as_ref() };
            loop {
                match download(&from, &mut done, pieces).await {
                    Ok(()) => {
                        self.down.heard(&turn.registry.endpoint.base);
                        return Ok(());
                    }
                    Err(failure) => match turn.pause(&failure, attempt) {
                        Some(pause) => {
                            let error = failure.into_error();
                            tracing::debug!(blob = %blob.digest, error = host::chain(&error), attempt, "download broke off");
                            tokio::time::sleep(pause).await;
                        }
                        None => {
                            if url.is_none() {
                                self.note(turn.registry, &failure);
                            }
                            break errors.add(turn.registry, failure);
                        }
                    },
                }
                attempt += 1;
            }
            // The next host starts at the beginning; if the writer is gone, it reports its own error.
            if pieces.send(Piece::Restart).await.is_err() {
                break;
            }
        }
        Err(errors.telling().unwrap_or_else(|| self.nobody("pull", blob.digest.as_str())))
    }

    /// Logs that a mirror failed, and remembers a host that cannot be reached.
    fn note(&self, registry: &Registry, failure: &Failure) {
        if matches!(failure, Failure::Unreachable { .. }) {
            self.down.note(&registry.endpoint.base);
        }
        if !registry.endpoint.own {
            let error = host::chain(failure.error());
            tracing::info!(reference = %self.reference, host = registry.name(), error, "a mirror cannot serve an image");
        }
    }

    fn nobody(&self, capability: &str, missing: &str) -> Error {
        if self.archive {
            return Error::invalid("archive", format!("it lacks {missing}"));
        }
        let reason = format!("no host of registry {} has the capability {capability:?}", self.reference.domain());
        Error::invalid(format!("hosts.toml for {}", self.reference), reason)
    }
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Tag(tag) => tag.clone(),
        Target::Digest(digest) => digest.to_string(),
    }
}

/// The errors of the hosts so far, and whether each is of a mirror.
#[derive(Default)]
struct Errors(Vec<(bool, Error)>);

impl Errors {
    fn add(&mut self, registry: &Registry, failure: Failure) {
        self.0.push((!registry.endpoint.own, failure.into_error()));
    }

    /// The first error of the registry itself, else the last one of a mirror.
    fn telling(mut self) -> Option<Error> {
        let own = self.0.iter().position(|(mirror, _)| !mirror);
        let at = own.or(self.0.len().checked_sub(1))?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Where a blob is downloaded from; `url`: not at the registry's address, but there.
struct From<'a> {
    turn: Turn<'a>,
    blob: &'a Blob,
    url: Option<&'a Url>,
}

/// Makes one attempt, from the end of the last one.
async fn download(from: &From<'_>, done: &mut u64, pieces: &mpsc::Sender<Piece>) -> Result<(), Failure> {
    let From { turn: Turn { registry, has_next, .. }, blob, url } = *from;
    let name = url.and_then(Url::host_str).map_or_else(|| registry.name(), str::to_owned);
    let operation = format!("cannot download blob {} from {name}", blob.digest);
    let (mut response, resumed) = match url {
        Some(url) => registry.foreign(url, *done).await?,
        None => registry.blob(&blob.digest, *done, has_next).await?,
    };
    let gone = || Failure::Permanent(Error::failed(&operation)("nobody takes it any more"));
    if !resumed && *done > 0 {
        *done = 0;
        pieces.send(Piece::Restart).await.map_err(|_| gone())?;
    }
    let (mut window, mut brought) = (Instant::now(), 0u64);
    while let Some(bytes) = registry.chunk(&mut response, &operation).await? {
        *done += bytes.len() as u64;
        brought += bytes.len() as u64;
        if window.elapsed() > registry.timeout {
            if brought < PROGRESS_BYTES {
                let reason = format!("only {brought} bytes came in {} s", registry.timeout.as_secs_f32());
                return Err(Failure::Unreachable { error: Error::unavailable(&operation)(reason), passing: true });
            }
            (window, brought) = (Instant::now(), 0);
        }
        let more = *done > blob.size;
        pieces.send(Piece::Bytes(bytes)).await.map_err(|_| gone())?;
        if more {
            return Err(Error::invalid(
                format!("blob {}", blob.digest),
                format!("{name} sends more than its {} bytes", blob.size),
            )
            .into());
        }
    }
    if *done < blob.size {
        let reason = format!("it ended after {done} of {} bytes", blob.size);
        return Err(Failure::Transient(Error::unavailable(&operation)(reason), None));
    }
    pieces.send(Piece::End).await.map_err(|_| gone())
}
