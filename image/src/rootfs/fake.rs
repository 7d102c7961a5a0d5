//! The fake backend, for tests that fail at every step: it behaves like any backend, in a directory, without mounts or root, and
//! each of its calls counts in the fault plan of all fakes.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use host::fault::Faults;
use host::{ContainerId, Need};

use super::layout::remove;
use super::{
    ChainId, Chains, Copy, Fits, FsUsage, Rootfs, Snapshot, Unpacking, check_import_name, check_snapshot_is_new,
    check_snapshot_name, imported_already, missing_import, missing_snapshot, tree,
};
use crate::Error;

/// Root file systems by copying, with fault injection.
#[derive(Debug)]
pub struct Fake {
    copy: Copy,
    faults: Faults,
}

impl Fake {
    /// Opens the fake in a directory, with a chain for each layer; opening it again simulates a restart.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path, faults: Faults) -> Result<Self, Error> {
        Self::with_chains(directory, Chains::Stacked { bytes_min: 0 }, faults)
    }

    /// Opens the fake with other chains.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn with_chains(directory: &Path, chains: Chains, faults: Faults) -> Result<Self, Error> {
        Ok(Self { copy: Copy::with_chains(directory, chains)?, faults })
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

    fn chains(&self) -> Chains {
        self.copy.chains()
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

    fn distrust(&self, chains: &[ChainId]) -> Result<(), Error> {
        self.call("rootfs distrust", |copy| copy.distrust(chains))
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

    fn shares(&self) -> bool {
        true
    }

    fn share(&self, id: &ContainerId, chain: &ChainId, fits: Fits<'_>) -> Result<Option<PathBuf>, Error> {
        self.call("rootfs share", |copy| copy.share(id, chain, fits))
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

    fn directory(&self, id: &ContainerId) -> PathBuf {
        self.copy.directory(id)
    }

    fn mountpoint(&self) -> PathBuf {
        self.copy.mountpoint()
    }

    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error> {
        self.call("rootfs inventory", Rootfs::inventory)
    }

    fn has_datasets(&self) -> bool {
        true
    }

    fn prepare_imported(&self, id: &ContainerId, name: &str) -> Result<PathBuf, Error> {
        self.call("rootfs prepare imported", |copy| {
            let (imported, root) = (imported(copy, name), copy.directory(id).join("root"));
            if !imported.is_dir() {
                return Err(missing_import(name));
            }
            if !root.is_dir() {
                fs::create_dir_all(copy.directory(id))
                    .map_err(Error::io(format!("cannot create {}", root.display())))?;
                tree::copy(&imported, &root)?;
            }
            Ok(root)
        })
    }

    fn limit(&self, id: &ContainerId, bytes: u64) -> Result<(), Error> {
        self.call("rootfs limit", |copy| {
            let limit = copy.container(id)?.join(LIMIT);
            fs::write(&limit, bytes.to_string()).map_err(Error::io(format!("cannot write {}", limit.display())))
        })
    }

    fn keep_snapshots(&self, id: &ContainerId, title: &str) -> Result<(), Error> {
        self.call("rootfs keep", |copy| {
            let Ok(container) = copy.container(id) else { return Ok(()) };
            if snapshots(&container)?.is_empty() {
                return Ok(());
            }
            let kept = copy.mountpoint().join("kept").join(title.replace('/', "."));
            let failed = || format!("cannot keep {}", container.display());
            fs::create_dir_all(&kept).map_err(Error::io(failed()))?;
            fs::rename(container.join(SNAPSHOTS), kept.join(SNAPSHOTS)).map_err(Error::io(failed()))
        })
    }

    fn snapshot(&self, ids: &[ContainerId], name: &str) -> Result<(), Error> {
        self.call("rootfs snapshot", |copy| {
            check_snapshot_name(name)?;
            let mut copies = Vec::new();
            for id in ids {
                let container = copy.container(id)?;
                let all = snapshots(&container)?;
                check_snapshot_is_new(id, name, all.iter().any(|(other, _)| other == name))?;
                copies
                    .push((container.join("root"), container.join(SNAPSHOTS).join(format!("{:04}-{name}", all.len()))));
            }
            for (root, to) in copies {
                let directory = to.parent().unwrap_or(&to);
                fs::create_dir_all(directory).map_err(Error::io(format!("cannot create {}", directory.display())))?;
                tree::copy(&root, &to)?;
            }
            Ok(())
        })
    }

    fn rollback(&self, id: &ContainerId, name: &str) -> Result<(), Error> {
        self.call("rootfs rollback", |copy| {
            check_snapshot_name(name)?;
            let container = copy.container(id)?;
            let all = snapshots(&container)?;
            let at = all.iter().position(|(other, _)| other == name).ok_or_else(|| missing_snapshot(id, name))?;
            all[at + 1..].iter().try_for_each(|(_, later)| remove(later))?;
            let root = container.join("root");
            remove(&root)?;
            tree::copy(&all[at].1, &root)
        })
    }

    fn snapshots(&self, id: &ContainerId) -> Result<Vec<Snapshot>, Error> {
        self.call("rootfs snapshots", |copy| {
            let mut found = Vec::new();
            for (name, path) in snapshots(&copy.container(id)?)? {
                let used = tree::usage(&path)?.bytes;
                found.push(Snapshot { name, used, referenced: used, created: 0 });
            }
            Ok(found)
        })
    }

    /// A tar archive, in place of a stream of ZFS.
    fn export(&self, id: &ContainerId, name: &str, to: &mut dyn Write) -> Result<(), Error> {
        self.call("rootfs export", |copy| {
            check_snapshot_name(name)?;
            let all = snapshots(&copy.container(id)?)?;
            let (_, root) = all.iter().find(|(other, _)| other == name).ok_or_else(|| missing_snapshot(id, name))?;
            let mut archive = tar::Builder::new(to);
            archive.follow_symlinks(false);
            let written = archive.append_dir_all(".", root).and_then(|()| archive.finish());
            written.map_err(Error::io(format!("cannot export {}", root.display())))
        })
    }

    fn import(&self, name: &str, from: &mut dyn Read) -> Result<(), Error> {
        self.call("rootfs import", |copy| {
            check_import_name(name)?;
            let (root, begun) = (imported(copy, name), imported(copy, &format!("{name}.begun")));
            if root.exists() {
                return Err(imported_already(name));
            }
            let unpacked = tar::Archive::new(from).unpack(&begun).and_then(|()| fs::rename(&begun, &root));
            unpacked.map_err(|error| {
                drop(remove(&begun));
                Error::io(format!("cannot import {}", root.display()))(error)
            })
        })
    }
}

/// The directory of an imported root.
fn imported(copy: &Copy, name: &str) -> PathBuf {
    copy.mountpoint().join("imported").join(name)
}

/// The file of a container's limit.
const LIMIT: &str = "limit";
/// The subdirectory of a container's snapshots.
const SNAPSHOTS: &str = "snapshots";

/// The snapshots of a container, the oldest first: copies of its root, `NUMBER-NAME`.
fn snapshots(container: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let directory = container.join(SNAPSHOTS);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("cannot list {}", directory.display()))(error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_name()?.to_str()?.split_once('-').map(|(_, name)| name.to_owned());
    Ok(paths.into_iter().filter_map(|path| Some((name(&path)?, path))).collect())
}
