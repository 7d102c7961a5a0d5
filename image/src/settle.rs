//! Syncs what pulls have made, some time after them, and checks after a power cut what they had made shortly before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::images::Shared;
use crate::locks::hold;
use crate::unsettled::Names;
use crate::{Digest, Error};

/// The delay after a pull: others that end meanwhile share the sync, and the container that waited for the image starts first.
const DELAY: Duration = Duration::from_secs(1);

/// Whether a sync is due.
#[derive(Debug, Default)]
pub(crate) struct Settler {
    due: AtomicBool,
}

impl Shared {
    /// Syncs soon, on a thread. A sync that fails is logged, and the next one tries again.
    pub(crate) fn settle_soon(self: &Arc<Self>) {
        if self.settler.due.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new().name("settle".to_owned()).spawn(move || {
            std::thread::sleep(DELAY);
            shared.settler.due.store(false, Ordering::Relaxed);
            if let Err(error) = shared.settle() {
                tracing::warn!(error = host::chain(&error), "cannot sync what was pulled");
            }
        });
        if started.is_err() {
            self.settler.due.store(false, Ordering::Relaxed);
        }
    }

    fn settle(&self) -> Result<(), Error> {
        self.unsettled.settle(|names| {
            self.blobs.sync(&names.blobs).map_err(Error::io("cannot sync the content store"))?;
            self.rootfs.sync(&names.chains)
        })
    }
}

/// Deals with what was not synced when the machine went down: discards its chains, which are unpacked anew from their blobs, the
/// blobs that are damaged, and the images that lack a blob then. Blocking.
pub(crate) fn recover(shared: &Shared, suspect: &Names) -> Result<(), Error> {
    if *suspect == Names::default() {
        return Ok(());
    }
    shared.rootfs.distrust(&suspect.chains)?;
    for digest in &suspect.blobs {
        if shared.blobs.has(digest) && !shared.blobs.is_whole(digest).unwrap_or(false) {
            shared.blobs.remove(digest)?;
        }
    }
    let mut records = hold(&shared.records);
    let is_damaged = |digest: &&Digest| suspect.blobs.contains(digest) && !shared.blobs.has(digest);
    let damaged = records.all().filter(|image| image.blobs().any(|blob| is_damaged(&blob)));
    let damaged: Vec<Digest> = damaged.map(|image| image.id.clone()).collect();
    for id in damaged {
        tracing::warn!(%id, "the machine went down while an image was being stored; it must be pulled again");
        records.remove(&id)?;
    }
    drop(records);
    shared.unsettled.forget_others()
}
