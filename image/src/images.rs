//! The images of a node: the façade of the content store, the records and the root file systems.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::worker::Workers;
use host::{ContainerId, Need};
use tokio::sync::Semaphore;

use crate::blobs::Blobs;
use crate::document::{Blob, CONFIG_BYTES_MAX, ImageConfig, configuration};
use crate::garbage::{Claims, Unneeded};
use crate::hosts::Hosts;
use crate::layers::Unpacker;
use crate::locks::{Locks, hold};
use crate::memory::Memory;
use crate::platform::Platform;
use crate::records::{ImageRecord, Records};
use crate::registry::{Down, Slots};
use crate::rootfs::{ChainId, Fits, FsUsage, Rootfs, Snapshot};
use crate::settle::{Settler, recover};
use crate::unsettled::Unsettled;
use crate::{Credentials, Error, Observer, garbage, volume};

/// Concurrent pulls; others wait. With the downloads of each it bounds memory and connections.
const PULLS: usize = 8;

/// The settings of [`Images`].
pub struct Settings {
    /// The directory of the content store and the records.
    pub root: PathBuf,
    /// The directory of `HOST/hosts.toml`, as containerd's `certs.d`.
    pub registry_config: Option<PathBuf>,
    /// How long a registry may stay silent, take for a manifest, or take for 64 KiB of a blob.
    pub registry_timeout: Duration,
    /// Starts the unpacking worker.
    pub workers: Workers,
    /// Holds the unpacked layers and the roots of containers.
    pub rootfs: Arc<dyn Rootfs>,
    /// Platforms to choose from an index, in order of preference: `freebsd/amd64`.
    pub platforms: Vec<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Its full names with a tag, sorted.
    pub repo_tags: Vec<String>,
    /// Its full names with a digest, sorted.
    pub repo_digests: Vec<String>,
    /// Downloaded bytes: documents, configuration and layers.
    pub size: u64,
    /// The defaults for containers.
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

/// The images of a node. Clones share all state.
#[derive(Clone)]
pub struct Images {
    pub(crate) shared: Arc<Shared>,
}

/// The state shared by all clones and pulls.
pub(crate) struct Shared {
    pub(crate) blobs: Blobs,
    pub(crate) records: Mutex<Records>,
    pub(crate) rootfs: Arc<dyn Rootfs>,
    pub(crate) locks: Arc<Locks>,
    pub(crate) hosts: Hosts,
    pub(crate) registry_timeout: Duration,
    pub(crate) down: Arc<Down>,
    /// Slots of concurrent downloads.
    pub(crate) slots: Slots,
    pub(crate) unsettled: Arc<Unsettled>,
    pub(crate) settler: Settler,
    pub(crate) memory: Arc<Memory>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) unpacker: Unpacker,
    /// Slots of concurrent pulls.
    pub(crate) pulls: Semaphore,
    /// The garbage collection kept a chain that a container uses: it runs again when a container is discarded.
    pub(crate) deferred: AtomicBool,
}

impl Images {
    /// Opens the store or creates it, removes what an earlier server left half unpacked, discards what a power cut may have damaged,
    /// and collects garbage. A removal that fails is logged and retried later, so that the server can start. Blocking.
    ///
    /// # Errors
    /// The directory cannot be used; the records cannot be read (they are left unchanged); a platform is malformed.
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
        let blobs = Blobs::open(&settings.root)?;
        let (unsettled, suspect) = Unsettled::open(&settings.root)?;
        let shared = Shared {
            blobs,
            records: Mutex::new(Records::open(&settings.root)?),
            rootfs: settings.rootfs,
            locks: Arc::default(),
            hosts: Hosts::new(settings.registry_config),
            registry_timeout: settings.registry_timeout,
            down: Arc::default(),
            slots: Slots::default(),
            unsettled: Arc::new(unsettled),
            settler: Settler::default(),
            memory: Arc::default(),
            platforms,
            unpacker: Unpacker::new(settings.workers),
            pulls: Semaphore::new(PULLS),
            deferred: AtomicBool::new(true),
        };
        let images = Self { shared: Arc::new(shared) };
        recover(&images.shared, &suspect)?;
        images.collect_as(Unneeded::SetAside);
        images.shared.settle_soon();
        Ok(images)
    }

    /// Pulls an image and unpacks it. Downloads only missing blobs. Dropping the future cancels the pull and removes its unfinished
    /// work, but not that of other pulls.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the reference or what the registry sent, [`Error::NotFound`], [`Error::Denied`],
    /// [`Error::Unavailable`] when the registry does not answer after a few attempts or the disk is full.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, Error> {
        self.pull_observed(reference, credentials, Observer::default()).await
    }

    /// [`Images::pull`], and tells the observer of each layer.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn pull_observed(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        observer: Observer,
    ) -> Result<Image, Error> {
        crate::pull::pull(&self.shared, reference, credentials.unwrap_or_default(), observer).await
    }

    /// Imports the images of an archive (tar or tar.gz: an OCI image layout, or what docker save writes), all or none, through the
    /// checks of a pull. `name` is for the only image of an archive, instead of its own. Dropping the future cancels the import as
    /// soon as the archive's next bytes come; a read error of the archive ends it. Both leave nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name or the archive, [`Error::Unavailable`] when the disk is full.
    pub async fn import(
        &self,
        archive: impl std::io::Read + Send + 'static,
        name: Option<String>,
    ) -> Result<Vec<Image>, Error> {
        crate::archive::import(&self.shared, archive, name).await
    }

    /// Writes images, each named by a reference or an id, as one archive that `import`, docker, podman, skopeo and containerd
    /// read. Equal images give equal bytes. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the writer or the disk fails.
    pub fn export(&self, names: &[String], writer: impl std::io::Write) -> Result<(), Error> {
        crate::archive::export(&self.shared, names, writer)
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        hold(&self.shared.records).all().map(Image::from).collect()
    }

    /// Finds an image by a reference (normalised as for a pull), an id, or a unique prefix of an id.
    ///
    /// # Errors
    /// [`Error::Invalid`]: an empty name, or a prefix of several ids.
    pub fn find(&self, name: &str) -> Result<Option<Image>, Error> {
        Ok(hold(&self.shared.records).find(name)?.map(Image::from))
    }

    /// Removes an image with all its names, and its unused blobs and layers. Idempotent. Containers keep their roots and layers
    /// until they are discarded. Blocking.
    ///
    /// # Errors
    /// As [`Images::find`]; the records cannot be written. A layer that cannot be removed is logged and retried later.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        {
            let mut records = hold(&self.shared.records);
            let Some(id) = records.find(name)?.map(|image| image.id.clone()) else { return Ok(()) };
            records.remove(&id)?;
        }
        self.collect_as(Unneeded::Reclaimed);
        self.shared.memory.give_back_soon();
        Ok(())
    }

    /// Makes a container's root from an image and mounts it. Idempotent. Unpacks missing layers (the backend has changed) from the
    /// content store first. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image; those of [`Rootfs::prepare`]. [`Images::discard`] removes the remains.
    pub fn prepare(&self, id: &ContainerId, image_id: &str) -> Result<PathBuf, Error> {
        let (chain, _pins) = self.unpacked(image_id)?;
        self.shared.rootfs.prepare(id, &chain)
    }

    /// Makes a container's root from one that was imported under a name. Idempotent. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::prepare_imported`].
    pub fn prepare_imported(&self, id: &ContainerId, name: &str) -> Result<PathBuf, Error> {
        self.shared.rootfs.prepare_imported(id, name)
    }

    /// The unpacked image itself as the root of a container that changes nothing in it, if the backend offers that and `fits` says so
    /// of its directory; with None, [`Images::prepare`] makes a root. Idempotent. Blocking.
    ///
    /// # Errors
    /// As [`Images::prepare`].
    pub fn share(&self, id: &ContainerId, image_id: &str, fits: Fits<'_>) -> Result<Option<PathBuf>, Error> {
        if !self.shared.rootfs.shares() {
            return Ok(None);
        }
        let (chain, _pins) = self.unpacked(image_id)?;
        self.shared.rootfs.share(id, &chain, fits)
    }

    /// See [`Rootfs::keep_spares`]. Blocking.
    pub fn keep_roots_ahead(&self, most: usize) {
        self.shared.rootfs.keep_spares(most);
    }

    /// Unmounts and removes a container's root and its image volumes. Idempotent. Blocking.
    ///
    /// # Errors
    /// The removal that failed; another call retries it.
    pub fn discard(&self, id: &ContainerId) -> Result<(), Error> {
        self.shared.rootfs.discard(id)?;
        if self.shared.deferred.load(Ordering::Relaxed) {
            self.collect_as(Unneeded::Removed);
        }
        Ok(())
    }

    /// Makes a read-only volume of a container from an image or a directory in it; [`Images::discard`] removes it. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image or the path in it, [`Error::Invalid`] for a path that leaves it.
    pub fn volume(&self, id: &ContainerId, image_id: &str, sub_path: &str) -> Result<PathBuf, Error> {
        let (chain, _pins) = self.unpacked(image_id)?;
        volume::resolve(&self.shared.rootfs.volume(id, &chain)?, Path::new(sub_path))
    }

    /// Makes a container's own volume for a path that its image declares as one, with what its root, prepared before, has there;
    /// [`Images::discard`] removes it. Idempotent. Blocking.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that cannot be a directory; a full disk.
    pub fn declared_volume(&self, id: &ContainerId, root: &Path, path: &Path) -> Result<PathBuf, Error> {
        volume::declare(&self.shared.rootfs.directory(id), root, path)
    }

    /// The whole configuration of an image as JSON, with its history, and its chain IDs, the lowest first. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the blob cannot be read.
    pub fn configuration(&self, name: &str) -> Result<(serde_json::Value, Vec<String>), Error> {
        let image = self.record(name)?;
        let failed = || format!("cannot read the configuration of image {}", image.id);
        let bytes = self.shared.blobs.read(&Blob::new(image.id.clone(), CONFIG_BYTES_MAX))?;
        let document = configuration(&bytes).and_then(serde_json::to_value).map_err(Error::failed(failed()))?;
        Ok((document, image.chains().into_iter().map(|chain| chain.0).collect()))
    }

    /// What images take of the disk, in allocated blocks: blobs, unfinished downloads, records, and layers, without the containers'
    /// roots. On ZFS the layers' part is `used` of their datasets, which follows within seconds, and has no inodes. Blocking.
    ///
    /// # Errors
    /// The file system cannot be read.
    pub fn usage(&self) -> Result<FsUsage, Error> {
        let mut sum = self.shared.blobs.usage()?;
        for chain in self.shared.rootfs.inventory()?.0 {
            match self.shared.rootfs.chain_usage(&chain) {
                Ok(usage) => (sum.bytes, sum.inodes) = (sum.bytes + usage.bytes, sum.inodes + usage.inodes),
                // It was removed after it was listed.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// A directory on the file system of the layers: the mount point in ImageFsInfo. Blocking.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.shared.rootfs.mountpoint()
    }

    /// Releases what is needed only while a server runs: spare roots, and the mount of [`Images::mountpoint`]. Idempotent. Blocking.
    ///
    /// # Errors
    /// The kernel fails.
    pub fn close(&self) -> Result<(), Error> {
        self.keep_roots_ahead(0);
        self.shared.rootfs.close()
    }

    /// Usage of a container's own writes. Blocking.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn container_usage(&self, id: &ContainerId) -> Result<FsUsage, Error> {
        self.shared.rootfs.usage(id)
    }

    /// The containers that have a root. Blocking.
    ///
    /// # Errors
    /// The file system cannot be read.
    pub fn containers(&self) -> Result<Vec<ContainerId>, Error> {
        Ok(self.shared.rootfs.inventory()?.1)
    }

    /// See [`Rootfs::snapshot`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::snapshot`].
    pub fn snapshot(&self, ids: &[ContainerId], name: &str) -> Result<(), Error> {
        self.shared.rootfs.snapshot(ids, name)
    }

    /// See [`Rootfs::export`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::export`].
    pub fn export_root(&self, id: &ContainerId, snapshot: &str, to: &mut dyn Write) -> Result<(), Error> {
        self.shared.rootfs.export(id, snapshot, to)
    }

    /// See [`Rootfs::import`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::import`].
    pub fn import_root(&self, name: &str, from: &mut dyn Read) -> Result<(), Error> {
        self.shared.rootfs.import(name, from)
    }

    /// See [`Rootfs::has_datasets`].
    #[must_use]
    pub fn has_datasets(&self) -> bool {
        self.shared.rootfs.has_datasets()
    }

    /// See [`Rootfs::limit`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::limit`].
    pub fn limit(&self, id: &ContainerId, bytes: u64) -> Result<(), Error> {
        self.shared.rootfs.limit(id, bytes)
    }

    /// See [`Rootfs::keep_snapshots`]. Blocking.
    ///
    /// # Errors
    /// Those of [`Rootfs::keep_snapshots`].
    pub fn keep_snapshots(&self, id: &ContainerId, title: &str) -> Result<(), Error> {
        self.shared.rootfs.keep_snapshots(id, title)
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
    pub fn snapshots(&self, id: &ContainerId) -> Result<Vec<Snapshot>, Error> {
        self.shared.rootfs.snapshots(id)
    }

    /// The requirements of images on the node, and whether they hold.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        self.shared.rootfs.needs()
    }

    /// The uppermost chain of an image, which is unpacked if it is missing. It stays as long as the pins.
    fn unpacked(&self, image_id: &str) -> Result<(ChainId, Claims), Error> {
        let image = self.record(image_id)?;
        let pins = Claims::new(&self.shared);
        let chain = self.shared.unpacker.ensure(&self.shared, &image, &pins)?;
        Ok((chain, pins))
    }

    fn record(&self, name: &str) -> Result<ImageRecord, Error> {
        hold(&self.shared.records).find(name)?.cloned().ok_or_else(|| Error::not_found(format!("image {name:?}")))
    }

    /// Removes blobs and layers that no image and no container uses, and datasets that others kept. Removals do it already: this is
    /// for what others have let go since, and for what pulls that broke off have left to the next ones. A removal that fails is logged
    /// and retried later. Blocking.
    pub fn collect(&self) {
        self.collect_as(Unneeded::Reclaimed);
    }

    fn collect_as(&self, unneeded: Unneeded) {
        if let Err(error) = garbage::collect(&self.shared, unneeded) {
            tracing::warn!(error = host::chain(&error), "cannot remove all unused layers");
        }
    }
}
