//! The sources of one image: its mirrors in their order, then the registry itself. After a permanent failure the next host is
//! tried, after a transient one the same host again. A host that cannot be reached, or says nothing, is asked once as long as there
//! is another one, and last for a while. Blobs are in `transfer`.

use std::sync::Arc;
use std::time::Duration;

use super::client::Registry;
use super::{Down, Failure, patience};
use crate::hosts::Endpoint;
use crate::{Credentials, Error, Reference, Target};

/// Attempts at one host, and the pause before the second one; it doubles for each further attempt.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(300);

/// The hosts that have an image.
pub(crate) struct Source {
    registries: Vec<Registry>,
    reference: Reference,
    pub(super) down: Arc<Down>,
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

/// One host of those that are asked in turn.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) registry: &'a Registry,
    /// Another host follows: this one is not waited for.
    pub(super) has_next: bool,
    /// It could not be reached lately.
    pub(super) down: bool,
}

impl Turn<'_> {
    /// The pause before the next attempt after a failure; None: there is none.
    pub(super) fn pause(&self, failure: &Failure, attempt: u32) -> Option<Duration> {
        let usual = PAUSE * 2u32.pow(attempt - 1);
        match failure {
            _ if attempt >= ATTEMPTS => None,
            Failure::Transient(_, Some(asked)) if patience::is_too_long(*asked) => None,
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

    /// How many hosts there are.
    pub(crate) fn hosts(&self) -> usize {
        self.registries.len()
    }

    /// The name of a host.
    pub(crate) fn name(&self, at: usize) -> String {
        self.registries.get(at).map(Registry::name).unwrap_or_default()
    }

    /// The numbers of the hosts that have blobs, those last that are to be asked last.
    pub(crate) fn with_blobs(&self) -> Vec<usize> {
        self.in_turn(|_, registry| registry.endpoint.pull).into_iter().map(|(at, ..)| at).collect()
    }

    /// The hosts that fit, with their numbers and whether they could not be reached lately, in the order in which they are asked.
    fn in_turn(&self, fits: impl Fn(usize, &Registry) -> bool) -> Vec<(usize, &Registry, bool)> {
        let fitting = self.registries.iter().enumerate().filter(|(at, registry)| fits(*at, registry));
        let looked = fitting.map(|(at, registry)| (at, registry, self.down.has(&registry.endpoint.base)));
        let (last, mut turns): (Vec<_>, Vec<_>) =
            looked.partition(|(_, registry, down)| *down || registry.is_avoided());
        turns.extend(last);
        turns
    }

    /// The hosts in their order, but those last that could not be reached lately or are avoided. `only`: this one alone.
    pub(super) fn turns(&self, only: Option<usize>, fits: impl Fn(&Registry) -> bool) -> Vec<Turn<'_>> {
        let chosen = self.in_turn(|at, registry| only.is_none_or(|only| only == at) && fits(registry));
        let turn = |(_, registry, down)| Turn { registry, has_next: true, down };
        let mut turns: Vec<_> = chosen.into_iter().map(turn).collect();
        if let Some(last) = turns.last_mut() {
            last.has_next = false;
        }
        turns
    }

    /// Gets a manifest or an index.
    pub(crate) async fn manifest(&self, target: &Target) -> Result<Vec<u8>, Error> {
        let mut errors = Errors::default();
        for turn in self.turns(None, |registry| match target {
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

    /// Logs that a mirror failed, and remembers a host that cannot be reached, or that others keep from serving this pull.
    pub(super) fn note(&self, registry: &Registry, failure: &Failure) {
        match failure {
            Failure::Unreachable { is_down: true, .. } => self.down.note(&registry.endpoint.base),
            Failure::Unreachable { .. } | Failure::Transient(_, Some(_)) => registry.avoid(),
            Failure::Transient(_, None) | Failure::Permanent(_) => {}
        }
        if !registry.endpoint.own {
            let error = host::chain(failure.error());
            tracing::info!(reference = %self.reference, host = registry.name(), error, "a mirror cannot serve an image");
        }
    }

    pub(super) fn nobody(&self, capability: &str, missing: &str) -> Error {
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
pub(super) struct Errors(Vec<(bool, Error)>);

impl Errors {
    pub(super) fn add(&mut self, registry: &Registry, failure: Failure) {
        self.0.push((!registry.endpoint.own, failure.into_error()));
    }

    /// The first error of the registry itself, else the last one of a mirror.
    pub(super) fn telling(mut self) -> Option<Error> {
        let own = self.0.iter().position(|(mirror, _)| !mirror);
        let at = own.or(self.0.len().checked_sub(1))?;
        Some(self.0.swap_remove(at).1)
    }
}
