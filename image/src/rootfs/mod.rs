//! Root file systems: layers are unpacked into chains, which images share, and each container gets a writable root on top of one.
//! One trait with four backends: ZFS (a dataset per chain, a clone per container), copies (any file system), overlayfs (Linux),
//! and a fake.

pub mod conformance;
mod copy;
mod fake;
mod layout;
#[cfg(any(target_os = "freebsd", test))]
mod listed;
#[cfg(target_os = "linux")]
mod overlay;
#[cfg(any(target_os = "freebsd", test))]
mod spares;
pub(crate) mod tree;
#[cfg(target_os = "freebsd")]
mod zfs;

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;

use std::fs;
use std::io::{Read, Write};
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

/// A chain ID of the OCI image specification, which names a layer on top of all layers below it: `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChainId(pub String);

impl ChainId {
    /// The name of its lock and its pins. A lowest layer that is not compressed has the digest of its blob, which is locked while it arrives.
    pub(crate) fn lock(&self) -> String {
        format!("chain {}", self.0)
    }
}

/// Usage of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsUsage {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// A snapshot of a container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What its removal would free, in bytes.
    pub used: u64,
    /// What it shows, in bytes, shared with its image and other snapshots.
    pub referenced: u64,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
}

/// What the chains of a backend are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chains {
    /// Whole trees, which need no other chain: all missing layers of an image become one.
    Trees,
    /// What layers change in the chain below, which each needs. Layers are gathered into a chain until they have this many compressed
    /// bytes.
    Stacked {
        /// Images that share some of the layers of a chain, but not all, each have a chain of those: fewer bytes than this.
        bytes_min: u64,
    },
}

/// A mount or a dataset for each small layer costs more than to unpack it again for another image.
const STACKED: Chains = Chains::Stacked { bytes_min: 4 << 20 };

/// A directory to unpack layers into, made by [`Rootfs::begin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacking {
    /// The chain.
    pub chain: ChainId,
    /// The directory.
    pub directory: PathBuf,
    /// What the layers below have, read-only; None: the directory shows it, so that a whiteout is a removal. Where there is one, the
    /// directory gets the layer's own files and overlayfs' whiteouts.
    pub below: Option<PathBuf>,
}

/// Whether a container can have a directory as its root that it shares with others.
pub type Fits<'a> = &'a dyn Fn(&Path) -> bool;

/// The root file systems. Every call blocks and is idempotent; names are computed from chain IDs and container ids.
pub trait Rootfs: Send + Sync + 'static {
    /// `zfs`, `copy`, `overlay`, `fake`.
    fn name(&self) -> &'static str;

    /// The requirements on the node, and whether they hold.
    fn needs(&self) -> Vec<Need>;

    /// Whether the chain exists and is complete.
    ///
    /// # Errors
    /// The file system cannot be read.
    fn has(&self, chain: &ChainId) -> Result<bool, Error>;

    /// Removes chains that were not completed. Only the server that owns the directory calls it, when it starts: another program
    /// that opens the directory meanwhile (`cellblock check`) must not.
    ///
    /// # Errors
    /// The first removal that failed; all others were done, and a chain that is left can be begun again.
    fn sweep(&self) -> Result<(), Error>;

    /// Removes deferred datasets: those that were kept by an administrator's snapshots, clones or holds. Still kept is no error;
    /// the next call tries again.
    fn sweep_deferred(&self) {}

    /// What a chain is.
    fn chains(&self) -> Chains {
        STACKED
    }

    /// Begins a chain on top of another (None: the lowest layer). Removes the remains of an earlier attempt first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the parent; a full disk.
    fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Unpacking, Error>;

    /// Completes the chain: from now on [`Rootfs::has`] finds it. Does not wait for the disk: see [`Rootfs::sync`].
    ///
    /// # Errors
    /// The file system failed; [`Rootfs::remove_chain`] removes the remains.
    fn commit(&self, unpacking: &Unpacking) -> Result<(), Error>;

    /// Makes complete chains durable: a power cut may damage them until then. Does nothing where [`Rootfs::commit`] does it.
    ///
    /// # Errors
    /// The file system failed.
    fn sync(&self, _chains: &[ChainId]) -> Result<(), Error> {
        Ok(())
    }

    /// Removes chains that a power cut may have damaged, and all chains on top of them, whoever uses them: nothing runs since the
    /// boot. Idempotent. Does nothing where [`Rootfs::commit`] makes them durable.
    ///
    /// # Errors
    /// The first removal that failed; all others were done.
    fn distrust(&self, _chains: &[ChainId]) -> Result<(), Error> {
        Ok(())
    }

    /// Removes a chain, complete or begun, that no other chain and no container uses. Idempotent. If an administrator's snapshot
    /// keeps it, it is moved aside: the chain can be begun again.
    ///
    /// # Errors
    /// [`Error::Conflict`] if something uses it.
    fn remove_chain(&self, chain: &ChainId) -> Result<(), Error>;

    /// Usage of the chain's uppermost layer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error>;

    /// Makes a container's root from a chain and mounts it; after a reboot, mounts it again. Idempotent.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the chain; a full disk. [`Rootfs::discard`] removes the remains.
    fn prepare(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error>;

    /// Whether roots are datasets: [`Rootfs::limit`], [`Rootfs::import`] and snapshots are supported.
    fn has_datasets(&self) -> bool {
        false
    }

    /// As [`Rootfs::prepare`], from a root that was imported under a name. Idempotent.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without ZFS, [`Error::NotFound`] for the imported root; a full disk.
    fn prepare_imported(&self, _id: &ContainerId, _name: &str) -> Result<PathBuf, Error> {
        Err(Error::Unsupported { what: "an imported root".to_owned(), backend: self.name() })
    }

    /// Sets the quota of a container's root (refquota of zfsprops(7)): what it was made from references, and `bytes` more. Idempotent.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without ZFS, [`Error::NotFound`].
    fn limit(&self, _id: &ContainerId, _bytes: u64) -> Result<(), Error> {
        Err(Error::Unsupported { what: "a limit on a container's root".to_owned(), backend: self.name() })
    }

    /// Moves a root that has snapshots to where [`Rootfs::discard`] does not find it, for an administrator, who is told its title. Nothing
    /// runs in it. Idempotent. Does nothing where there are no snapshots.
    ///
    /// # Errors
    /// The file system failed; another call goes on.
    fn keep_snapshots(&self, _id: &ContainerId, _title: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Whether [`Rootfs::share`] may return a root.
    fn shares(&self) -> bool {
        false
    }

    /// The chain itself as the root of a container that changes nothing in it, if `fits` says so of its directory; with None,
    /// [`Rootfs::prepare`] makes a root. [`Rootfs::discard`] forgets it, and the chain stays in use until then. Idempotent. Always
    /// None where making a root copies nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the chain.
    fn share(&self, _id: &ContainerId, _chain: &ChainId, _fits: Fits<'_>) -> Result<Option<PathBuf>, Error> {
        Ok(None)
    }

    /// Unmounts and removes a container's root. Idempotent. A busy root is retried for a while, then deferred to a later call.
    ///
    /// # Errors
    /// The removal that failed.
    fn discard(&self, id: &ContainerId) -> Result<(), Error>;

    /// Usage of the container's own writes; nothing if its root is the chain itself.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn usage(&self, id: &ContainerId) -> Result<FsUsage, Error>;

    /// The chain as a read-only directory, for an image volume of container `id`. Idempotent. [`Rootfs::discard`] removes it with
    /// the container's root.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the chain.
    fn volume(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error>;

    /// The directory of the container's own files beside its root. [`Rootfs::discard`] removes it with everything in it.
    fn directory(&self, id: &ContainerId) -> PathBuf;

    /// Keeps spare roots for at most `most` of the chains that containers were last made from; 0 removes all spares. Does nothing
    /// where making a root is fast.
    fn keep_spares(&self, _most: usize) {}

    /// A directory on the file system of all chains and roots: the mount point in ImageFsInfo. Its free space is theirs.
    fn mountpoint(&self) -> PathBuf;

    /// Releases what is needed only while a server runs. Idempotent.
    ///
    /// # Errors
    /// The kernel fails.
    fn close(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The complete chains, and the containers that have a root.
    ///
    /// # Errors
    /// The file system cannot be read.
    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error>;

    /// Takes snapshots of the roots of containers at one instant, of all or of none. A name that one of them has is a conflict.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without ZFS, [`Error::NotFound`], [`Error::Conflict`].
    fn snapshot(&self, _ids: &[ContainerId], _name: &str) -> Result<(), Error> {
        Err(Error::Unsupported { what: "a snapshot of a container's root".to_owned(), backend: self.name() })
    }

    /// Rolls the container's root back to a snapshot and removes later ones. Nothing may run in it.
    ///
    /// # Errors
    /// As [`Rootfs::snapshot`].
    fn rollback(&self, _id: &ContainerId, _name: &str) -> Result<(), Error> {
        Err(Error::Unsupported { what: "a roll-back of a container's root".to_owned(), backend: self.name() })
    }

    /// The container's snapshots, the oldest first.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::NotFound`].
    fn snapshots(&self, _id: &ContainerId) -> Result<Vec<Snapshot>, Error> {
        Err(Error::Unsupported { what: "a snapshot of a container's root".to_owned(), backend: self.name() })
    }

    /// Writes a snapshot of a container's root as what [`Rootfs::import`] reads: a whole stream of zfs-send(8).
    ///
    /// # Errors
    /// As [`Rootfs::snapshot`]; `to` fails.
    fn export(&self, _id: &ContainerId, _name: &str, _to: &mut dyn Write) -> Result<(), Error> {
        Err(Error::Unsupported { what: "an export of a container's root".to_owned(), backend: self.name() })
    }

    /// Imports a root under a name, which containers can then be made from. Nothing stays of one that breaks off.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Conflict`] for the name; `from` fails or is no such stream; a full disk.
    fn import(&self, _name: &str, _from: &mut dyn Read) -> Result<(), Error> {
        Err(Error::Unsupported { what: "an import of a root".to_owned(), backend: self.name() })
    }
}

/// The parent dataset on ZFS, with properties of layers and roots; empty: left as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// `compression`, as zfsprops(7) has it.
    pub compression: String,
    /// `recordsize`, likewise.
    pub recordsize: String,
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

/// Opens a backend in a subdirectory of `directory`; `dataset` is the parent dataset on ZFS.
///
/// # Errors
/// [`Error::Unsupported`] for a backend of another system; the directory or the dataset cannot be used.
pub fn open(kind: Kind, directory: &Path, dataset: Option<&Dataset>) -> Result<Arc<dyn Rootfs>, Error> {
    match kind {
        Kind::Copy => Ok(Arc::new(Copy::open(&directory.join("copy"))?)),
        other => platform::open(other, directory, dataset),
    }
}

/// Makes the root directory of a lowest layer with the attributes that it has if the layer has no entry for it.
pub(crate) fn make_root(directory: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().mode(0o755).create(directory);
    made.map_err(Error::io(format!("cannot create {}", directory.display())))
}

/// Joins the errors of all removals.
fn every(outcomes: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let mut failures = host::Failures::<Error>::default();
    for outcome in outcomes {
        failures.keep(outcome);
    }
    failures.result(Error::failed("cannot remove what unfinished pulls left"))
}

/// Characters of the name of a snapshot or an imported root.
const NAME_LENGTH: usize = 64;

fn check_snapshot_name(name: &str) -> Result<(), Error> {
    check_name("snapshot name", name)
}

/// Refuses a name of an imported root that no dataset can have.
///
/// # Errors
/// [`Error::Invalid`] with the name and its fault.
pub fn check_import_name(name: &str) -> Result<(), Error> {
    check_name("name of an imported root", name)
}

/// Refuses a name that is no component of a name of ZFS, or that zfs(8) would take for an option.
fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    let length = 1..=NAME_LENGTH;
    if length.contains(&name.len()) && name.bytes().all(letter) && !name.starts_with(['-', '.']) {
        Ok(())
    } else {
        let wanted = format!("1 to {NAME_LENGTH} letters, digits, -, _, . and :, the first no - and no .");
        Err(Error::invalid(what, format!("{name:?} is not {wanted}")))
    }
}

fn missing_snapshot(id: &ContainerId, name: &str) -> Error {
    Error::not_found(format!("snapshot {name:?} of container {id}"))
}

fn missing_import(name: &str) -> Error {
    Error::not_found(format!("imported root {name:?}"))
}

/// The refusal of a name that an imported root has.
fn imported_already(name: &str) -> Error {
    Error::Conflict { what: format!("there is an imported root {name:?} already") }
}

/// Refuses a name that a container's root has a snapshot of.
fn check_snapshot_is_new(id: &ContainerId, name: &str, exists: bool) -> Result<(), Error> {
    if exists {
        return Err(Error::Conflict { what: format!("container {} has a snapshot {name:?} already", id.short()) });
    }
    Ok(())
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
