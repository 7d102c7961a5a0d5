//! The images of a node: one value that owns the content store, the records and the root file systems, and what the server
//! asks of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::worker::Workers;
use host::{ContainerId, Need};
use tokio::sync::Semaphore;

use crate::blobs::Blobs;
use crate::document::ImageConfig;
use crate::hosts::Hosts;
use crate::layers::Unpacker;
use crate::locks::{Locks, hold};
use crate::platform::Platform;
use crate::records::{ImageRecord, Records};
use crate::rootfs::{FsUsage, Rootfs};
use crate::{Credentials, Error, garbage, volume};

/// Pulls that run at the same time; others wait. With the downloads of each it bounds memory and connections.
const PULLS: usize = 8;

/// How images are kept and made.
pub struct Settings {
    /// The directory of the content store and the records.
    pub root: PathBuf,
    /// The directory of `HOST/hosts.toml`, as containerd's `certs.d`.
    pub registry_config: Option<PathBuf>,
    /// How long a registry may say nothing, take for a manifest, or bring less than 64 KiB of a blob in.
    pub registry_timeout: Duration,
    /// Where the unpacking worker is.
    pub workers: Workers,
    /// Where layers are unpacked to and containers get their roots from.
    pub rootfs: Arc<dyn Rootfs>,
    /// What to take from an index, the most wanted first: `freebsd/amd64`.
    pub platforms: Vec<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Its names with a tag, complete and sorted.
    pub repo_tags: Vec<String>,
    /// Its names with a digest, complete and sorted.
    pub repo_digests: Vec<String>,
    /// Bytes as they were downloaded: documents, configuration and layers.
    pub size: u64,
    /// What it says of the containers made from it.
    pub config: ImageConfig,
}

impl From<&ImageRecord> for Image {
    fn from(record: &ImageRecord) -> Self {
        Self {
            id: record.id.to_string(),
            repo_tags: record.tags.iter().cloned().collect(),
            repo_digests: record.digests.iter().cloned().collect(),
            size: record.size,
            config: record.config.clone(),
        }
    }
}

/// The images of a node. A clone is the same.
#[derive(Clone)]
pub struct Images {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones and all pulls share.
pub(crate) struct Shared {
    pub(crate) blobs: Blobs,
    pub(crate) records: Mutex<Records>,
    pub(crate) rootfs: Arc<dyn Rootfs>,
    pub(crate) locks: Arc<Locks>,
    pub(crate) hosts: Hosts,
    pub(crate) registry_timeout: Duration,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) unpacker: Unpacker,
    /// Slots of the pulls that run at the same time.
    pub(crate) pulls: Semaphore,
    /// A chain was kept only because a container stands on it: looked at again when a container goes.
    pub(crate) deferred: AtomicBool,
}

impl Images {
    /// Opens the store, creating it if need be, and removes what a former server left half done and what no image and no
    /// container uses. What cannot be removed is logged and tried again: it keeps no server from starting. Blocking.
    ///
    /// # Errors
    /// The directory cannot be used; a record cannot be understood (it is left as it is); a platform is malformed.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let platforms: Vec<Platform> =
            settings.platforms.iter().map(|text| Platform::parse(text)).collect::<Result<_, _>>()?;
        if platforms.is_empty() {
            return Err(Error::invalid("platforms", "the list is empty"));
        }
        if settings.registry_timeout.is_zero() {
            return Err(Error::invalid("registry_timeout", "no registry answers in no time"));
        }
        if let Err(error) = settings.rootfs.sweep() {
            tracing::warn!(error = host::chain(&error), "cannot remove all that a former server left half unpacked");
        }
        let shared = Shared {
            blobs: Blobs::open(&settings.root)?,
            records: Mutex::new(Records::open(&settings.root)?),
            rootfs: settings.rootfs,
            locks: Arc::default(),
            hosts: Hosts::new(settings.registry_config),
            registry_timeout: settings.registry_timeout,
            platforms,
            unpacker: Unpacker::new(settings.workers),
            pulls: Semaphore::new(PULLS),
            deferred: AtomicBool::new(true),
        };
        let images = Self { shared: Arc::new(shared) };
        images.collect();
        Ok(images)
    }

    /// Pulls an image and unpacks it. What is there already is not fetched again. Dropping the future ends the pull: what it
    /// began is removed, what other pulls work on is not.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the reference or what the registry sent, [`Error::NotFound`], [`Error::Denied`],
    /// [`Error::Unavailable`] when the registry does not answer after a few attempts or the disk is full.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, Error> {
        crate::pull::pull(&self.shared, reference, credentials.unwrap_or_default()).await
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        hold(&self.shared.records).all().map(Image::from).collect()
    }

    /// The image that a name means: a reference (completed as for a pull), an id, or the beginning of exactly one.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no name at all, or the beginning of several ids.
    pub fn find(&self, name: &str) -> Result<Option<Image>, Error> {
        Ok(hold(&self.shared.records).find(name)?.map(Image::from))
    }

    /// Removes an image with all its names, and what nothing else uses of it. Missing: done already. Containers keep their
    /// roots, and the layers below them, until they are discarded. Blocking.
    ///
    /// # Errors
    /// As [`Images::find`]; the records cannot be written. What cannot be removed of the layers is logged and tried again.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        {
            let mut records = hold(&self.shared.records);
            let Some(id) = records.find(name)?.map(|image| image.id.clone()) else { return Ok(()) };
            records.remove(&id)?;
        }
        self.collect();
        Ok(())
    }

    /// Makes a container's root from an image and mounts it; twice: the one that is there. Layers that are not unpacked (the
    /// root file systems were changed for others) are unpacked from the content store first. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image; what [`Rootfs::prepare`] says. [`Images::discard`] removes what was made.
    pub fn prepare(&self, id: &ContainerId, image_id: &str) -> Result<PathBuf, Error> {
        let image = self.record(image_id)?;
        let pins = self.shared.locks.pin();
        let chain = self.shared.unpacker.ensure(&self.shared, &image, &pins)?;
        self.shared.rootfs.prepare(id, &chain)
    }

    /// See [`Rootfs::keep_ahead`]. Blocking.
    pub fn keep_roots_ahead(&self, most: usize) {
        self.shared.rootfs.keep_ahead(most);
    }

    /// Unmounts and removes a container's root and its image volumes. Missing: done already. Blocking.
    ///
    /// # Errors
    /// What could not be removed; the same call goes on with it.
    pub fn discard(&self, id: &ContainerId) -> Result<(), Error> {
        self.shared.rootfs.discard(id)?;
        if self.shared.deferred.load(Ordering::Relaxed) {
            self.collect();
        }
        Ok(())
    }

    /// An image, or a directory in it, as a read-only volume of a container; [`Images::discard`] removes it. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image or the path in it, [`Error::Invalid`] for a path that leaves it.
    pub fn volume(&self, id: &ContainerId, image_id: &str, sub_path: &str) -> Result<PathBuf, Error> {
        let image = self.record(image_id)?;
        let pins = self.shared.locks.pin();
        let chain = self.shared.unpacker.ensure(&self.shared, &image, &pins)?;
        volume::resolve(&self.shared.rootfs.volume(id, &chain)?, Path::new(sub_path))
    }

    /// What blobs and layers hold, without the containers' own. Blocking.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub fn usage(&self) -> Result<FsUsage, Error> {
        let blobs = self.shared.blobs.list()?;
        let mut sum = FsUsage { bytes: blobs.iter().map(|blob| blob.size).sum(), inodes: blobs.len() as u64 };
        for chain in self.shared.rootfs.inventory()?.0 {
            match self.shared.rootfs.chain_usage(&chain) {
                Ok(usage) => (sum.bytes, sum.inodes) = (sum.bytes + usage.bytes, sum.inodes + usage.inodes),
                // It was removed since it was listed.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// Where the layers are: the mount point that ImageFsInfo names.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.shared.rootfs.mountpoint()
    }

    /// What a container has written. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn container_usage(&self, id: &ContainerId) -> Result<FsUsage, Error> {
        self.shared.rootfs.usage(id)
    }

    /// The containers that have a root. Blocking.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub fn containers(&self) -> Result<Vec<ContainerId>, Error> {
        Ok(self.shared.rootfs.inventory()?.1)
    }

    /// See [`Rootfs::snapshot`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::snapshot`].
    pub fn snapshot(&self, id: &ContainerId, name: &str) -> Result<(), Error> {
        self.shared.rootfs.snapshot(id, name)
    }

    /// See [`Rootfs::rollback`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::rollback`].
    pub fn rollback(&self, id: &ContainerId, name: &str) -> Result<(), Error> {
        self.shared.rootfs.rollback(id, name)
    }

    /// See [`Rootfs::snapshots`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::snapshots`].
    pub fn snapshots(&self, id: &ContainerId) -> Result<Vec<String>, Error> {
        self.shared.rootfs.snapshots(id)
    }

    /// What images need of the node, and whether it holds.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        self.shared.rootfs.needs()
    }

    fn record(&self, name: &str) -> Result<ImageRecord, Error> {
        hold(&self.shared.records).find(name)?.cloned().ok_or_else(|| Error::not_found(format!("image {name:?}")))
    }

    /// Removes what nothing uses any more. What cannot be removed now is no error of the caller's: it is tried again later.
    fn collect(&self) {
        if let Err(error) = garbage::collect(&self.shared) {
            tracing::warn!(error = host::chain(&error), "cannot remove all unused layers");
        }
    }
}
