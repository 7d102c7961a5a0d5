//! The content store: every blob is a file named by its digest below `blobs/ALGORITHM`. A blob is written to a file in `ingest`,
//! hashed meanwhile, and renamed into place once size and digest match: every named blob is complete.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::document::Blob;
use crate::ingest::{Ingest, Unnamed};
use crate::rootfs::{FsUsage, tree};
use crate::{Algorithm, Digest, Error, durable};

/// How long a part of a blob is kept for a pull that resumes it. kubelet tries again within five minutes.
pub(crate) const PARTIAL_AGE_MAX: Duration = Duration::from_secs(3600);
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// The content store in a directory.
#[derive(Debug)]
pub(crate) struct Blobs {
    /// The directory of all, which holds the records of the images too.
    directory: PathBuf,
    root: PathBuf,
    begun: PathBuf,
    /// Files of archives whose digest is not known yet.
    imports: PathBuf,
}

impl Blobs {
    /// Opens the store and creates its directories.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let store = Self {
            directory: root.to_owned(),
            root: root.join("blobs"),
            begun: root.join("ingest"),
            imports: root.join("import"),
        };
        let failed = |path: &Path| format!("cannot prepare {}", path.display());
        if let Err(error) = host::fs::remove_dir_all(&store.imports) {
            tracing::warn!(%error, path = %store.imports.display(), "cannot remove interrupted imports");
        }
        for directory in store.directories().iter().chain([&store.begun, &store.imports]) {
            fs::create_dir_all(directory).map_err(Error::io(failed(directory)))?;
        }
        Ok(store)
    }

    fn directories(&self) -> [PathBuf; 2] {
        [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| self.root.join(algorithm.name()))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether the blob exists.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Whether the blob exists with this size: a file of another one is damaged, or the size is a lie.
    pub(crate) fn has_all(&self, blob: &Blob) -> bool {
        self.path(&blob.digest).metadata().is_ok_and(|found| found.is_file() && found.len() == blob.size)
    }

    /// Bytes of a blob; 0 if it is not there.
    pub(crate) fn size(&self, digest: &Digest) -> u64 {
        self.path(digest).metadata().map_or(0, |metadata| metadata.len())
    }

    /// Opens a blob for reading.
    pub(crate) fn file(&self, digest: &Digest) -> Result<File, Error> {
        File::open(self.path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("blob {digest}")),
            _ => Error::io(format!("cannot open blob {digest}"))(error),
        })
    }

    /// Reads a small blob and verifies it: the disk may have corrupted it.
    pub(crate) fn read(&self, blob: &Blob) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let file = self.file(&blob.digest)?;
        file.take(blob.size + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io(format!("cannot read blob {}", blob.digest)))?;
        if blob.digest.algorithm().digest(&bytes) != blob.digest {
            return Err(Error::invalid(format!("blob {}", blob.digest), "its file does not have this digest any more"));
        }
        Ok(bytes)
    }

    /// Whether the blob's file has its digest.
    pub(crate) fn is_whole(&self, digest: &Digest) -> Result<bool, Error> {
        let (mut file, mut hash, mut buffer) = (self.file(digest)?, digest.algorithm().start(), vec![0; BUFFER]);
        loop {
            match file.read(&mut buffer).map_err(Error::io(format!("cannot read blob {digest}")))? {
                0 => return Ok(hash.finish() == *digest),
                read => hash.update(&buffer[..read]),
            }
        }
    }

    /// Stores the bytes of a blob.
    pub(crate) fn put(&self, blob: &Blob, bytes: &[u8]) -> Result<(), Error> {
        if self.has_all(blob) {
            return Ok(());
        }
        let mut ingest = self.begin(blob.clone())?;
        ingest.restart()?;
        ingest.write(0, bytes)?;
        ingest.finish()
    }

    /// Begins a blob, or takes up what an earlier pull left of it. The caller holds the lock of the digest.
    pub(crate) fn begin(&self, blob: Blob) -> Result<Ingest, Error> {
        Ingest::begin(self.begun.join(blob.digest.hex()), self.path(&blob.digest), blob)
    }

    /// The parts of blobs that no pull has resumed for so long, and files that are none.
    pub(crate) fn outdated(&self, age_max: Duration) -> Result<Vec<PathBuf>, Error> {
        let paths = host::fs::entries(&self.begun).map_err(Error::of_file(&self.begun))?;
        let is_outdated = |path: &PathBuf| {
            let named = path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex).is_some();
            let age = path.symlink_metadata().and_then(|metadata| metadata.modified()).ok();
            !named || age.is_some_and(|time| time.elapsed().unwrap_or_default() >= age_max)
        };
        Ok(paths.into_iter().filter(is_outdated).collect())
    }

    /// Makes these blobs durable. Blocking.
    pub(crate) fn sync(&self, digests: &[Digest]) -> io::Result<()> {
        let files = digests.iter().map(|digest| self.path(digest)).filter(|path| path.is_file());
        durable::sync(&self.root, files)
    }

    /// Begins a blob whose digest shows at its end.
    pub(crate) fn begin_unnamed(&self, algorithm: Algorithm) -> Result<Unnamed, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Unnamed::begin(self.imports.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string()), algorithm)
    }

    /// Keeps a blob of this size that is written, unless it is there. The caller holds the lock of the digest.
    pub(crate) fn finish_unnamed(&self, unnamed: Unnamed, size: u64) -> Result<(), Error> {
        let blob = Blob::new(unnamed.digest(), size);
        if self.has_all(&blob) { Ok(()) } else { unnamed.finish(&self.path(&blob.digest)) }
    }

    /// Keeps a blob for a pull that takes it up, as what [`Blobs::begin`] left of a download. The caller holds the lock of the digest.
    pub(crate) fn set_aside(&self, digest: &Digest) -> Result<(), Error> {
        let (whole, path) = (self.path(digest), self.begun.join(digest.hex()));
        Ingest::set_aside(&whole, &path).map_err(Error::io(format!("cannot keep blob {digest} for a later pull")))
    }

    /// Removes a blob. Idempotent.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Error> {
        host::fs::remove_file(&self.path(digest)).map_err(Error::io(format!("cannot remove blob {digest}")))
    }

    /// What the directory takes of its file system: blobs, unfinished ones, records.
    pub(crate) fn usage(&self) -> Result<FsUsage, Error> {
        tree::usage(&self.directory)
    }

    /// Every blob with its size in bytes.
    pub(crate) fn list(&self) -> Result<Vec<Blob>, Error> {
        let mut blobs = Vec::new();
        for directory in self.directories() {
            let failed = || format!("cannot list {}", directory.display());
            for entry in fs::read_dir(&directory).map_err(Error::io(failed()))? {
                let entry = entry.map_err(Error::io(failed()))?;
                // A name that is no digest is not ours.
                let digest = entry.file_name().to_str().and_then(Digest::from_hex);
                if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                    blobs.push(Blob::new(digest, metadata.len()));
                }
            }
        }
        Ok(blobs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Blobs;
    use crate::document::Blob;
    use crate::{Digest, Error};

    fn blob(bytes: &[u8], size: u64) -> Blob {
        Blob::new(Digest::of(bytes), size)
    }

    #[test]
    fn a_blob_is_stored_read_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        assert!(blobs.list().unwrap().is_empty());
        let digest = Digest::of(b"hello");
        blobs.put(&blob(b"hello", 5), b"hello").unwrap();
        assert_eq!(blobs.read(&blob(b"hello", 5)).unwrap(), b"hello");
        blobs.remove(&digest).unwrap();
        blobs.remove(&digest).unwrap();
        assert!(matches!(blobs.file(&digest).unwrap_err(), Error::NotFound { .. }));
    }

    #[test]
    fn parts_are_kept_for_a_while_and_a_changed_blob_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let ingest = |name: &str| root.path().join("ingest").join(name);
        let (fresh, old) = (Digest::of(b"fresh"), Digest::of(b"old"));
        for name in ["left", fresh.hex(), old.hex()] {
            std::fs::write(ingest(name), "x").unwrap();
        }
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
        std::fs::File::options().write(true).open(ingest(old.hex())).unwrap().set_modified(yesterday).unwrap();
        let outdated: BTreeSet<_> = blobs.outdated(super::PARTIAL_AGE_MAX).unwrap().into_iter().collect();
        assert_eq!(outdated, [ingest("left"), ingest(old.hex())].into());
        let digest = Digest::of(b"hello");
        blobs.put(&blob(b"hello", 5), b"hello").unwrap();
        assert!(blobs.is_whole(&digest).unwrap());
        std::fs::write(root.path().join("blobs/sha256").join(digest.hex()), "jello").unwrap();
        assert!(!blobs.is_whole(&digest).unwrap());
        assert!(matches!(blobs.read(&blob(b"hello", 5)).unwrap_err(), Error::Invalid { .. }));
    }
}
