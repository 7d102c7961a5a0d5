//! The datasets of containers' roots, and where they are mounted.

use std::fs;
use std::path::PathBuf;

use host::ContainerId;
use nix::mount::MntFlags;

use super::dataset::Datasets;
use super::mounts::{mount, unmount_and_remove};
use crate::Error;
use crate::rootfs::layout;

/// Datasets and their mount points.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) datasets: Datasets,
    pub(super) directory: PathBuf,
}

impl Roots {
    pub(super) fn containers(&self) -> PathBuf {
        self.directory.join("containers")
    }

    /// The mount point of the empty dataset above all chains, by which statfs(2) tells the pool's space and the datasets' quota:
    /// the directory itself may be on any file system.
    pub(super) fn space(&self) -> PathBuf {
        self.directory.join("space")
    }

    /// The id of a container's root: its own, or that of its spare.
    pub(super) fn owner(&self, id: &ContainerId) -> ContainerId {
        let link = fs::read_link(self.containers().join(id.as_str())).ok();
        link.and_then(|target| target.to_str()?.parse().ok()).unwrap_or_else(|| id.clone())
    }

    pub(super) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(self.owner(id).as_str())
    }

    pub(super) fn dataset(&self, id: &ContainerId) -> String {
        self.datasets.container(&self.owner(id))
    }

    pub(super) fn root(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("root")
    }

    /// Clones a chain's snapshot for a container, and mounts it. Idempotent.
    pub(super) fn make(&self, id: &ContainerId, layer: &str) -> Result<PathBuf, Error> {
        let (dataset, root) = (self.dataset(id), self.root(id));
        if !self.datasets.exists(&dataset)? {
            self.datasets.clone_of(layer, &dataset)?;
        }
        mount(&dataset, &root, MntFlags::empty())?;
        Ok(root)
    }

    /// Unmounts and destroys a container's root and volumes.
    pub(super) fn destroy(&self, id: &ContainerId) -> Result<(), Error> {
        let own = self.container(id);
        if let Ok(volumes) = fs::read_dir(own.join("volumes")) {
            for volume in volumes.flatten() {
                unmount_and_remove(&volume.path())?;
            }
        }
        unmount_and_remove(&own.join("root"))?;
        self.datasets.remove_container(&self.dataset(id))?;
        layout::remove(&own)?;
        // The link goes last: the rest is found by it.
        layout::remove(&self.containers().join(id.as_str()))
    }
}
