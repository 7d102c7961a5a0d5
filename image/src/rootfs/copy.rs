//! Roots by copying, for any file system. Every chain and every container's root is a full tree; where the file system clones
//! blocks (ZFS, XFS, btrfs), a root shares those of its chain. An image has one chain, made of a copy of another image's if that
//! has its lower layers. There are no mounts, so a reboot changes nothing. An image volume is the chain's directory; the runtime
//! mounts it read-only, as it does with the root of a container that shares its chain.
//!
//! Nothing is faster and safe for a root that can be written. unionfs(4) warns of itself that it "may cause data loss"; a file that
//! is a hard link into a chain is changed in every container by a write, chmod or chown in one of them, and nothing can be mounted
//! on it (`vfs_domount_first` in FreeBSD's kern/vfs_mount.c: EINVAL if it has several links). UFS clones no blocks.

use std::fs;
use std::path::{Path, PathBuf};

use host::{ContainerId, Need};

use super::layout::{Layout, remove};
use super::{ChainId, Chains, Fits, FsUsage, Rootfs, Unpacking, every, tree};
use crate::Error;

/// Chains and roots as copies in a directory.
#[derive(Debug)]
pub struct Copy {
    layout: Layout,
}

impl Copy {
    /// Opens the backend in a directory, which it creates.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self { layout: Layout::open(directory, Chains::Trees)? })
    }

    /// For the fake: each chain is a copy here too, but counts as one of this kind.
    pub(super) fn with_chains(directory: &Path, chains: Chains) -> Result<Self, Error> {
        Ok(Self { layout: Layout::open(directory, chains)? })
    }

    /// The directory of a container that has a root of its own.
    pub(super) fn container(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        let directory = self.layout.container(id);
        if directory.join("root").is_dir() {
            return Ok(directory);
        }
        if self.layout.container_record(id)?.is_some_and(|record| record.shared) {
            let what = format!("a snapshot of container {id}, whose read-only root is its image itself,");
            return Err(Error::Unsupported { what, backend: self.name() });
        }
        Err(Error::not_found(format!("root of container {id}")))
    }

    fn fs(&self, chain: &ChainId) -> Result<PathBuf, Error> {
        if !self.layout.has(chain)? {
            return Err(Error::not_found(format!("layer chain {}", chain.0)));
        }
        Ok(self.layout.chain(chain)?.join("fs"))
    }
}

impl Rootfs for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn needs(&self) -> Vec<Need> {
        vec![super::root_need()]
    }

    fn has(&self, chain: &ChainId) -> Result<bool, Error> {
        self.layout.has(chain)
    }

    fn sweep(&self) -> Result<(), Error> {
        every(self.layout.all_begun()?.iter().map(|chain| remove(&self.layout.begun(chain)?)))
    }

    fn chains(&self) -> Chains {
        self.layout.chains()
    }

    fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Unpacking, Error> {
        let below = parent.map(|parent| self.fs(parent)).transpose()?;
        let directory = self.layout.begin(chain, parent)?.join("fs");
        match below {
            Some(below) => tree::copy(&below, &directory)?,
            None => super::make_root(&directory)?,
        }
        Ok(Unpacking { chain: chain.clone(), directory, below: None })
    }

    fn commit(&self, unpacking: &Unpacking) -> Result<(), Error> {
        self.layout.commit(&unpacking.chain)
    }

    fn sync(&self, chains: &[ChainId]) -> Result<(), Error> {
        self.layout.sync(chains)
    }

    fn distrust(&self, chains: &[ChainId]) -> Result<(), Error> {
        self.layout.distrust(chains)
    }

    fn remove_chain(&self, chain: &ChainId) -> Result<(), Error> {
        self.layout.remove_chain(chain)
    }

    fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error> {
        self.layout.chain_usage(chain)
    }

    fn prepare(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        let (root, begun) = (self.layout.container(id).join("root"), self.layout.container(id).join("root.begun"));
        let below = self.fs(chain)?;
        if root.is_dir() {
            return Ok(root);
        }
        self.layout.note(id, |record| (record.chain, record.shared) = (Some(chain.clone()), false))?;
        remove(&begun)?;
        tree::copy(&below, &begun)?;
        let made = tree::usage(&begun)?;
        self.layout.note(id, |record| record.made = (made.bytes, made.inodes))?;
        fs::rename(&begun, &root).map_err(Error::io(format!("cannot create {}", root.display())))?;
        Ok(root)
    }

    fn shares(&self) -> bool {
        true
    }

    fn share(&self, id: &ContainerId, chain: &ChainId, fits: Fits<'_>) -> Result<Option<PathBuf>, Error> {
        let directory = self.fs(chain)?;
        if self.layout.container(id).join("root").is_dir() || !fits(&directory) {
            return Ok(None);
        }
        self.layout.note(id, |record| (record.chain, record.shared) = (Some(chain.clone()), true))?;
        Ok(Some(directory))
    }

    fn discard(&self, id: &ContainerId) -> Result<(), Error> {
        remove(&self.layout.container(id))
    }

    fn usage(&self, id: &ContainerId) -> Result<FsUsage, Error> {
        let root = self.layout.container(id).join("root");
        let record = self.layout.container_record(id)?.filter(|record| record.shared || root.is_dir());
        let record = record.ok_or_else(|| Error::not_found(format!("root of container {id}")))?;
        if record.shared {
            return Ok(FsUsage::default());
        }
        let now = tree::usage(&root)?;
        let (bytes, inodes) = record.made;
        Ok(FsUsage { bytes: now.bytes.saturating_sub(bytes), inodes: now.inodes.saturating_sub(inodes) })
    }

    fn volume(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        let directory = self.fs(chain)?;
        self.layout.note(id, |record| {
            if !record.volumes.contains(chain) {
                record.volumes.push(chain.clone());
            }
        })?;
        Ok(directory)
    }

    fn directory(&self, id: &ContainerId) -> PathBuf {
        self.layout.container(id)
    }

    fn mountpoint(&self) -> PathBuf {
        self.layout.directory().to_owned()
    }

    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error> {
        self.layout.inventory()
    }
}
