//! Removes the blobs that no image references and the chains that no image and no container uses.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::blobs::PARTIAL_AGE_MAX;
use crate::images::Shared;
use crate::locks::{Attempt, Pins, hold};
use crate::records::ImageRecord;
use crate::rootfs::{ChainId, Chains};
use crate::{Digest, Error};

/// What becomes of a blob that no image references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unneeded {
    /// It goes.
    Removed,
    /// It goes, and with it what pulls that broke off have left: the space is wanted.
    Reclaimed,
    /// It is kept for a while: the pull that fetched it broke off, and the next one takes it up.
    SetAside,
}

/// Pins that have collected, when they go, what a collection passed over because of them.
pub(crate) struct Claims {
    shared: Arc<Shared>,
    pins: Pins,
}

impl Claims {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), pins: shared.locks.pin() }
    }

    /// See [`Pins::add`].
    pub(crate) fn add(&self, name: &str) {
        self.pins.add(name);
    }

    /// Lets all go, which is garbage now if no image has come to use it.
    pub(crate) fn let_go(&self, unneeded: Unneeded) {
        let _ = self.pins.release();
        collect_soon(&self.shared, unneeded);
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        if self.pins.release() {
            collect_soon(&self.shared, Unneeded::Removed);
        }
    }
}

/// Collects garbage on a thread of its own: a collection reads directories, and may be wanted on a thread of the async runtime.
fn collect_soon(shared: &Arc<Shared>, unneeded: Unneeded) {
    let shared = Arc::clone(shared);
    let collect = move || {
        if let Err(error) = collect(&shared, unneeded) {
            tracing::warn!(error = host::chain(&error), "cannot remove what is not needed any more");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("collect".to_owned()).spawn(collect) {
        tracing::warn!(%error, "what is not needed any more is removed with the next image");
    }
}

/// Collects garbage. What is pinned stays, and is collected when it is let go. A chain that a container uses stays too, and is
/// collected later. Blocking.
///
/// # Errors
/// The first removal that failed; all others were done.
pub(crate) fn collect(shared: &Shared, unneeded: Unneeded) -> Result<(), Error> {
    let age_max = if unneeded == Unneeded::Reclaimed { Duration::ZERO } else { PARTIAL_AGE_MAX };
    let partial = collect_partial(shared, age_max);
    let blobs = collect_blobs(shared, unneeded);
    let chains = collect_chains(shared);
    partial.and(blobs).and(chains)
}

/// Removes blobs and parts of them that no pull has taken up for so long.
fn collect_partial(shared: &Shared, age_max: Duration) -> Result<(), Error> {
    let mut outcome = Ok(());
    for path in shared.blobs.outdated(age_max)? {
        let digest = path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
        let lock = digest.map(|digest| shared.locks.try_lock(digest.as_str()));
        if !matches!(lock, Some(None)) {
            let removed = host::fs::remove_dir_all(&path);
            outcome = outcome.and(removed.map_err(Error::io(format!("cannot remove {}", path.display()))));
        }
    }
    outcome
}

fn collect_blobs(shared: &Shared, unneeded: Unneeded) -> Result<(), Error> {
    let used: HashSet<String> = {
        let records = hold(&shared.records);
        records.all().flat_map(|image| image.blobs()).map(ToString::to_string).collect()
    };
    let mut outcome = Ok(());
    for blob in shared.blobs.list()? {
        let name = blob.digest.to_string();
        if used.contains(&name) {
            continue;
        }
        let Attempt::Begun(_removal) = shared.locks.removal(&name) else { continue };
        // An image may have come to reference it since it was listed.
        if !hold(&shared.records).all().any(|image| image.blobs().any(|used| *used == blob.digest)) {
            let gone = match unneeded {
                Unneeded::Removed | Unneeded::Reclaimed => shared.blobs.remove(&blob.digest),
                Unneeded::SetAside => shared.blobs.set_aside(&blob.digest),
            };
            outcome = outcome.and(gone);
        }
    }
    outcome
}

/// The chains that an image needs: where each is a whole tree, only its uppermost one.
fn chains(shared: &Shared, image: &ImageRecord) -> impl Iterator<Item = ChainId> {
    let chains = image.chains();
    let below = if shared.rootfs.chains() == Chains::Trees { chains.len() - 1 } else { 0 };
    chains.into_iter().skip(below)
}

/// Upper chains keep lower ones: repeats while a round removes something.
fn collect_chains(shared: &Shared) -> Result<(), Error> {
    shared.deferred.store(false, Ordering::Relaxed);
    let collected = remove_unused(shared);
    if collected.is_err() {
        shared.deferred.store(true, Ordering::Relaxed);
    }
    collected
}

fn remove_unused(shared: &Shared) -> Result<(), Error> {
    let used: HashSet<String> = {
        let records = hold(&shared.records);
        records.all().flat_map(|image| chains(shared, image)).map(|chain| chain.0).collect()
    };
    // A deferred upper chain keeps lower ones from being removed.
    shared.rootfs.sweep_deferred();
    let mut unused: Vec<_> = shared.rootfs.inventory()?.0;
    unused.retain(|chain| !used.contains(&chain.0));
    let mut said = false;
    loop {
        let before = unused.len();
        let mut outcome = Ok(());
        unused.retain(|chain| {
            let _removal = match shared.locks.removal(&chain.lock()) {
                Attempt::Begun(removal) => removal,
                Attempt::Pinned => return false,
                // It may stay there as in use, by a container that goes before the other collection is over.
                Attempt::Busy => return true,
            };
            // An image may have come to use it since they were listed.
            if hold(&shared.records).all().any(|image| chains(shared, image).any(|used| used == *chain)) {
                return false;
            }
            match shared.rootfs.remove_chain(chain) {
                Ok(()) => false,
                Err(Error::Conflict { .. }) => true,
                Err(error) => {
                    outcome = Err(error);
                    true
                }
            }
        });
        if unused.is_empty() || (unused.len() == before && said) {
            return outcome;
        }
        if unused.len() == before {
            // Once more: a container that used one may have gone before this was said.
            shared.deferred.store(true, Ordering::Relaxed);
            said = true;
        }
    }
}
