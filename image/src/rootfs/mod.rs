//! Root file systems: layers unpacked once and kept by their chain, and a writable root for each container made from them.
//! One trait, with a backend each for ZFS (a dataset per chain, a clone per container), any file system (copies), overlayfs
//! (Linux), and a fake.

#[cfg(any(target_os = "freebsd", test))]
mod ahead;
pub mod conformance;
mod copy;
mod fake;
mod layout;
#[cfg(any(target_os = "freebsd", test))]
mod listed;
#[cfg(target_os = "linux")]
mod overlay;
mod tree;
#[cfg(target_os = "freebsd")]
mod zfs;

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use host::{ContainerId, Need};
use serde::{Deserialize, Serialize};

use crate::Error;

pub use copy::Copy;
pub use fake::Fake;
#[cfg(target_os = "linux")]
pub use overlay::Overlay;
#[cfg(target_os = "freebsd")]
pub use zfs::Zfs;

/// A chain id of the OCI image specification: what one layer on top of all below it looks like. `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// The directory to unpack into. It shows everything below the layer (with overlayfs by a mount), so that an entry can
    /// replace, link to, or stand below what a lower layer brought, and a whiteout simply removes.
    pub directory: PathBuf,
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

    /// Removes what former attempts left half unpacked. For the one server that owns the directory, when it starts: another
    /// program that opens it meanwhile (`cellblock check`) leaves it alone.
    ///
    /// # Errors
    /// The first thing that could not be removed; the others are gone, and what is left stands in nobody's way.
    fn sweep(&self) -> Result<(), Error>;

    /// Removes what others kept from being removed (their snapshots, clones and holds) as far as they have let go of it. What
    /// they still keep is no error, and is looked at again by the next call.
    fn sweep_deferred(&self) {}

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

    /// Removes a chain, whole or begun, that no other and no container stands on. Missing: done already. What others keep of it
    /// (a snapshot of theirs) is put out of the way: the chain can be begun again.
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

    /// From now on makes roots ahead, for at most so many of the chains that containers are made from; 0: none, and those that
    /// there are go. Where making a root takes no time there is nothing to do.
    fn keep_ahead(&self, _most: usize) {}

    /// Where it keeps what it keeps: the mount point that ImageFsInfo names.
    fn mountpoint(&self) -> PathBuf;

    /// The chains, whole ones only, and the containers that have a root.
    ///
    /// # Errors
    /// The file system cannot be asked.
    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error>;

    /// Keeps the container's root as it is now under a name. A name that is there already is a conflict.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless the file system can (ZFS), [`Error::NotFound`], [`Error::Conflict`].
    fn snapshot(&self, _id: &ContainerId, _name: &str) -> Result<(), Error> {
        Err(Error::Unsupported { what: "a snapshot of a container's root".to_owned(), backend: self.name() })
    }

    /// Puts the container's root back to what it was under a name; later snapshots go. Nothing may run in it.
    ///
    /// # Errors
    /// As [`Rootfs::snapshot`].
    fn rollback(&self, _id: &ContainerId, _name: &str) -> Result<(), Error> {
        Err(Error::Unsupported { what: "a roll-back of a container's root".to_owned(), backend: self.name() })
    }

    /// The names of the container's snapshots, the oldest first.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::NotFound`].
    fn snapshots(&self, _id: &ContainerId) -> Result<Vec<String>, Error> {
        Err(Error::Unsupported { what: "a snapshot of a container's root".to_owned(), backend: self.name() })
    }
}

/// Which backend to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The best that works: ZFS where a dataset is given, overlayfs where it can be mounted, else copies.
    Auto,
    /// [`Copy`].
    Copy,
    /// overlayfs (Linux).
    Overlay,
    /// ZFS (FreeBSD).
    Zfs,
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "copy" => Ok(Self::Copy),
            "overlay" => Ok(Self::Overlay),
            "zfs" => Ok(Self::Zfs),
            _ => Err(Error::invalid("rootfs", format!("{text:?} is none of auto, copy, overlay, zfs"))),
        }
    }
}

/// Opens a backend in a directory of its own below `directory`; `dataset` is the ZFS dataset to work below.
///
/// # Errors
/// [`Error::Unsupported`] for a kind that this system has not; the directory or the dataset cannot be used.
pub fn open(kind: Kind, directory: &Path, dataset: Option<&str>) -> Result<Arc<dyn Rootfs>, Error> {
    match kind {
        Kind::Copy => Ok(Arc::new(Copy::open(&directory.join("copy"))?)),
        other => platform::open(other, directory, dataset),
    }
}

/// Makes the empty root directory of a lowest layer, as a layer without an entry for it means it.
fn make_root(directory: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().mode(0o755).create(directory);
    made.map_err(Error::io(format!("cannot make {}", directory.display())))
}

/// Goes through all of them, and gives the first error.
fn every(outcomes: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    outcomes.fold(Ok(()), Result::and)
}

/// Characters of a snapshot's name.
const SNAPSHOT_NAME_LENGTH: usize = 64;

/// Refuses a name that is not one component of a ZFS snapshot's name, or that a tool would take for an option.
fn check_snapshot_name(name: &str) -> Result<(), Error> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    let length = 1..=SNAPSHOT_NAME_LENGTH;
    if length.contains(&name.len()) && name.bytes().all(letter) && !name.starts_with('-') {
        Ok(())
    } else {
        Err(Error::invalid("snapshot name", format!("{name:?} is not letters, digits, -, _, . and :")))
    }
}

/// Owners and device nodes need root.
fn root_need() -> Need {
    let root = nix::unistd::geteuid().is_root();
    Need {
        name: "root file systems".to_owned(),
        found: if root { "runs as root" } else { "runs without root" }.to_owned(),
        required: true,
        remedy: (!root).then(|| "run as root: files of images have owners".to_owned()),
    }
}
