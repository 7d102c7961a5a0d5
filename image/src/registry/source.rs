//! The sources of one image: its mirrors in their order, then the registry itself. After a permanent failure the next host is
//! tried, after a transient one the same host again.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Failure;
use super::client::Registry;
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

impl Source {
    /// Prepares the clients of these hosts. Reads certificate files: blocking.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        reference: &Reference,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let registry = |endpoint| Registry::new(endpoint, reference, credentials, timeout);
        let registries = endpoints.into_iter().map(registry).collect::<Result<_, _>>()?;
        Ok(Self { registries, reference: reference.clone() })
    }

    /// Gets a manifest or an index.
    pub(crate) async fn manifest(&self, target: &Target) -> Result<Vec<u8>, Error> {
        let fits = |registry: &&Registry| match target {
            Target::Tag(_) => registry.endpoint.resolve,
            Target::Digest(_) => registry.endpoint.pull || registry.endpoint.resolve,
        };
        let mut last = None;
        for registry in self.registries.iter().filter(fits) {
            match retry(|| registry.manifest(target)).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = Some(self.note(registry, error)),
            }
        }
        Err(last.unwrap_or_else(|| self.nobody("resolve")))
    }

    /// Downloads a blob in pieces. Resumes after a broken connection.
    pub(crate) async fn blob(&self, blob: &Blob, pieces: &mpsc::Sender<Piece>) -> Result<(), Error> {
        let mut last = None;
        for registry in self.registries.iter().filter(|registry| registry.endpoint.pull) {
            let mut done = 0;
            let mut attempt = 1;
            loop {
                match download(registry, blob, &mut done, pieces).await {
                    Ok(()) => return Ok(()),
                    Err(Failure::Transient(error, wait)) if attempt < ATTEMPTS => {
                        tracing::debug!(blob = %blob.digest, error = host::chain(&error), attempt, "download broke off");
                        pause(attempt, wait).await;
                        attempt += 1;
                    }
                    Err(failure) => {
                        last = Some(self.note(registry, failure.into_error()));
                        break;
                    }
                }
            }
            // The next host starts at the beginning; if the writer is gone, it reports its own error.
            if pieces.send(Piece::Restart).await.is_err() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| self.nobody("pull")))
    }

    fn note(&self, registry: &Registry, error: Error) -> Error {
        if registry.endpoint.mirror_of.is_some() {
            tracing::info!(reference = %self.reference, host = registry.name(), error = host::chain(&error), "a mirror cannot serve an image");
        }
        error
    }

    fn nobody(&self, capability: &str) -> Error {
        let reason = format!("no host of registry {} has the capability {capability:?}", self.reference.domain());
        Error::invalid(format!("hosts.toml for {}", self.reference), reason)
    }
}

/// Retries transient failures, up to the limit.
async fn retry<T, F: Future<Output = Result<T, Failure>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Transient(_, wait)) if attempt < ATTEMPTS => pause(attempt, wait).await,
            Err(failure) => return Err(failure.into_error()),
        }
        attempt += 1;
    }
}

async fn pause(attempt: u32, asked: Option<Duration>) {
    tokio::time::sleep(asked.unwrap_or(PAUSE * 2u32.pow(attempt - 1))).await;
}

/// Makes one attempt, from the end of the last one.
async fn download(
    registry: &Registry,
    blob: &Blob,
    done: &mut u64,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Failure> {
    let operation = format!("cannot download blob {} from {}", blob.digest, registry.name());
    let (mut response, resumed) = registry.blob(&blob.digest, *done).await?;
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
                return Err(Failure::Transient(Error::unavailable(&operation)(reason), None));
            }
            (window, brought) = (Instant::now(), 0);
        }
        let more = *done > blob.size;
        pieces.send(Piece::Bytes(bytes)).await.map_err(|_| gone())?;
        if more {
            return Err(Error::invalid(
                format!("blob {}", blob.digest),
                format!("{} sends more than its {} bytes", registry.name(), blob.size),
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
