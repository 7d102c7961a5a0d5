//! Root file systems: layers unpacked once and kept by their chain, and a writable root for each container made from them.
//! One trait, with a backend each for ZFS (a dataset per chain, a clone per container), any file system (copies), overlayfs
//! (Linux), and a fake.

use std::path::PathBuf;

use host::{ContainerId, Need};

use crate::Error;

/// A chain id of the OCI image specification: what one layer on top of all below it looks like. `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(pub String);

/// What a file system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsUsage {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// A place to unpack a layer to, begun by [`Rootfs::begin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacking {
    /// The chain that comes to be.
    pub chain: ChainId,
    /// The directory to unpack into.
    pub directory: PathBuf,
    /// Whether `directory` already holds everything below the layer, so that a whiteout removes (ZFS, copy), or only the
    /// layer, so that a whiteout is recorded in the way of overlayfs.
    pub whole: bool,
}

/// The root file systems. All of it is blocking; every call may be repeated; names are computed from chains and ids.
pub trait Rootfs: Send + Sync + 'static {
    /// `zfs`, `copy`, `overlay`, `fake`.
    fn name(&self) -> &'static str;

    /// What it needs of the node, and whether it holds.
    fn needs(&self) -> Vec<Need>;

    /// Whether the chain is there, whole.
    ///
    /// # Errors
    /// The file system cannot be asked.
    fn has(&self, chain: &ChainId) -> Result<bool, Error>;

    /// Begins a chain on top of another (None: the lowest layer). What a former attempt left is removed first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the parent; a full disk.
    fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Unpacking, Error>;

    /// Keeps what was unpacked: only now [`Rootfs::has`] says yes.
    ///
    /// # Errors
    /// The file system says no; [`Rootfs::remove_chain`] removes what is there.
    fn commit(&self, unpacking: &Unpacking) -> Result<(), Error>;

    /// Removes a chain, whole or begun, that no other and no container stands on. Missing: done already.
    ///
    /// # Errors
    /// [`Error::Conflict`] when something stands on it.
    fn remove_chain(&self, chain: &ChainId) -> Result<(), Error>;

    /// What the chain's uppermost layer holds.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error>;

    /// Makes a container's root from a chain and mounts it; after a reboot, mounts it again. Twice: the one that is there.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the chain; a full disk. [`Rootfs::discard`] removes what was made.
    fn prepare(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error>;

    /// Unmounts and removes a container's root. Missing: done already. What is busy is retried for a while, then deferred
    /// and taken up by a later call.
    ///
    /// # Errors
    /// What could not be removed.
    fn discard(&self, id: &ContainerId) -> Result<(), Error>;

    /// What the container itself has written.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn usage(&self, id: &ContainerId) -> Result<FsUsage, Error>;

    /// The chain as a read-only directory, for an image that is mounted as a volume; `id` is whose volume it is. Twice: the
    /// one that is there. [`Rootfs::discard`] removes it with the container's root.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the chain.
    fn volume(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error>;

    /// Where it keeps what it keeps: the mount point that ImageFsInfo names.
    fn mountpoint(&self) -> PathBuf;

    /// The chains, whole ones only, and the containers that have a root.
    ///
    /// # Errors
    /// The file system cannot be asked.
    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error>;
}
