//! Removes the blobs that no image has and the chains that neither an image nor a container stands on.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::Error;
use crate::images::Shared;
use crate::locks::hold;

/// Collects garbage. What a pull in progress has pinned stays, and so does what a container stands on, which is noted for
/// later. Blocking.
///
/// # Errors
/// The first thing that could not be removed; the others are gone.
pub(crate) fn collect(shared: &Shared) -> Result<(), Error> {
    let blobs = collect_blobs(shared);
    let chains = collect_chains(shared);
    blobs.and(chains)
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
        // Who holds the lock works with it. A pull pins a name before it waits for its lock: one that comes after this look
        // waits, and finds nothing.
        let Some(_lock) = shared.locks.try_lock(&name) else { continue };
        if !in_use(shared, &name) {
            outcome = outcome.and(shared.blobs.remove(&blob.digest));
        }
    }
    outcome
}

/// Whether a pull works with the name or, since the list was made, an image has it.
fn in_use(shared: &Shared, name: &str) -> bool {
    shared.locks.pinned(name)
        || hold(&shared.records).all().any(|image| {
            image.blobs().any(|blob| blob.as_str() == name) || image.chains().iter().any(|chain| chain.0 == name)
        })
}

/// Upper chains stand on lower ones: as long as a round removes something, another may remove more.
fn collect_chains(shared: &Shared) -> Result<(), Error> {
    let used: HashSet<String> = {
        let records = hold(&shared.records);
        records.all().flat_map(|image| image.chains()).map(|chain| chain.0).collect()
    };
    // Upper chains that others kept are in the way of lower ones.
    shared.rootfs.sweep_deferred();
    let mut unused: Vec<_> = shared.rootfs.inventory()?.0;
    unused.retain(|chain| !used.contains(&chain.0));
    loop {
        let before = unused.len();
        let mut outcome = Ok(());
        unused.retain(|chain| {
            let Some(_lock) = shared.locks.try_lock(&chain.0) else { return false };
            if in_use(shared, &chain.0) {
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
