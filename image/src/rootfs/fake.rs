//! A fake for tests that must fail at every step: it behaves like any backend, in a directory of its own, without mounts and
//! without root, and each of its calls counts in the plan of faults that all fakes share.

use std::path::{Path, PathBuf};

use host::fault::Faults;
use host::{ContainerId, Need};

use super::{ChainId, Copy, FsUsage, Rootfs, Unpacking};
use crate::Error;

/// Root file systems by copying that fail or hang when the plan says so.
#[derive(Debug)]
pub struct Fake {
    copy: Copy,
    faults: Faults,
}

impl Fake {
    /// Opens the fake in a directory; opened again on the same one, it is as after a restart.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path, faults: Faults) -> Result<Self, Error> {
        Ok(Self { copy: Copy::open(directory)?, faults })
    }

    fn call<T>(&self, operation: &str, effect: impl FnOnce(&Copy) -> Result<T, Error>) -> Result<T, Error> {
        self.faults.call(
            operation,
            || effect(&self.copy),
            |source| Error::Failed { operation: operation.to_owned(), source },
        )
    }
}

impl Rootfs for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }

    fn has(&self, chain: &ChainId) -> Result<bool, Error> {
        self.call("rootfs has", |copy| copy.has(chain))
    }

    fn sweep(&self) -> Result<(), Error> {
        self.call("rootfs sweep", Rootfs::sweep)
    }

    fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Unpacking, Error> {
        self.call("rootfs begin", |copy| copy.begin(chain, parent))
    }

    fn commit(&self, unpacking: &Unpacking) -> Result<(), Error> {
        self.call("rootfs commit", |copy| copy.commit(unpacking))
    }

    fn remove_chain(&self, chain: &ChainId) -> Result<(), Error> {
        self.call("rootfs remove chain", |copy| copy.remove_chain(chain))
    }

    fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error> {
        self.call("rootfs chain usage", |copy| copy.chain_usage(chain))
    }

    fn prepare(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        self.call("rootfs prepare", |copy| copy.prepare(id, chain))
    }

    fn discard(&self, id: &ContainerId) -> Result<(), Error> {
        self.call("rootfs discard", |copy| copy.discard(id))
    }

    fn usage(&self, id: &ContainerId) -> Result<FsUsage, Error> {
        self.call("rootfs usage", |copy| copy.usage(id))
    }

    fn volume(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        self.call("rootfs volume", |copy| copy.volume(id, chain))
    }

    fn mountpoint(&self) -> PathBuf {
        self.copy.mountpoint()
    }

    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error> {
        self.call("rootfs inventory", Rootfs::inventory)
    }
}
