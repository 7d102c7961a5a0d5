//! Removes the blobs that no image references and the chains that no image and no container uses.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::images::Shared;
use crate::locks::hold;
use crate::records::ImageRecord;
use crate::rootfs::{ChainId, Chains};
use crate::{Digest, Error};

/// Collects garbage. Whatever a running pull pins stays. A chain that a container uses stays too, and is collected later.
/// Blocking.
///
/// # Errors
/// The first removal that failed; all others were done.
pub(crate) fn collect(shared: &Shared) -> Result<(), Error> {
    let partial = collect_partial(shared);
    let blobs = collect_blobs(shared);
    let chains = collect_chains(shared);
    partial.and(blobs).and(chains)
}

/// Removes parts of blobs that no pull has resumed for a while.
fn collect_partial(shared: &Shared) -> Result<(), Error> {
    let mut outcome = Ok(());
    for path in shared.blobs.outdated()? {
        let digest = path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
        let lock = digest.map(|digest| shared.locks.try_lock(digest.as_str()));
        if !matches!(lock, Some(None)) {
            let removed = host::fs::remove_dir_all(&path);
            outcome = outcome.and(removed.map_err(Error::io(format!("cannot remove {}", path.display()))));
        }
    }
    outcome
}

fn collect_blobs(shared: &Shared) -> Result<(), Error> {
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
        // A pull holds the lock of a blob that it works on, and pins the name before it waits for the lock: a pull that comes
        // after this check waits, and downloads the blob anew.
        let Some(_lock) = shared.locks.try_lock(&name) else { continue };
        if !in_use(shared, &name) {
            outcome = outcome.and(shared.blobs.remove(&blob.digest));
        }
    }
    outcome
}

/// Whether a pull pins the name, or an image has come to reference it since it was listed.
fn in_use(shared: &Shared, name: &str) -> bool {
    shared.locks.pinned(name)
        || hold(&shared.records).all().any(|image| {
            image.blobs().any(|blob| blob.as_str() == name) || chains(shared, image).any(|chain| chain.0 == name)
        })
}

/// The chains that an image needs: where each is a whole tree, only its uppermost one.
fn chains(shared: &Shared, image: &ImageRecord) -> impl Iterator<Item = ChainId> {
    let chains = image.chains();
    let below = if shared.rootfs.chains() == Chains::Trees { chains.len() - 1 } else { 0 };
    chains.into_iter().skip(below)
}

/// Upper chains keep lower ones: repeats while a round removes something.
fn collect_chains(shared: &Shared) -> Result<(), Error> {
    let used: HashSet<String> = {
        let records = hold(&shared.records);
        records.all().flat_map(|image| chains(shared, image)).map(|chain| chain.0).collect()
    };
    // A deferred upper chain keeps lower ones from being removed.
    shared.rootfs.sweep_deferred();
    let mut unused: Vec<_> = shared.rootfs.inventory()?.0;
    unused.retain(|chain| !used.contains(&chain.0));
    loop {
        let before = unused.len();
        let mut outcome = Ok(());
        unused.retain(|chain| {
            let Some(_lock) = shared.locks.try_lock(&chain.lock()) else { return false };
            if shared.locks.pinned(&chain.lock()) || in_use(shared, &chain.0) {
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
        if unused.len() == before || unused.is_empty() {
            shared.deferred.store(!unused.is_empty(), Ordering::Relaxed);
            return outcome;
        }
    }
}
