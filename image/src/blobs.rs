//! The content store: every blob is a file named by its digest below `blobs/ALGORITHM`. A blob is written to a temporary file, hashed
//! meanwhile, and renamed into place once size and digest match: every named blob is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::document::Blob;
use crate::rootfs::{FsUsage, tree};
use crate::{Algorithm, Digest, Error, Hash};

/// Only root may read blobs: images may contain secrets.
const MODE: u32 = 0o600;

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
    /// Opens the store, creates its directories, and removes interrupted downloads.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let store = Self {
            directory: root.to_owned(),
            root: root.join("blobs"),
            begun: root.join("ingest"),
            imports: root.join("import"),
        };
        let failed = |path: &Path| format!("cannot prepare {}", path.display());
        for unfinished in [&store.begun, &store.imports] {
            if let Err(error) = host::fs::remove_dir_all(unfinished) {
                tracing::warn!(%error, path = %unfinished.display(), "cannot remove interrupted downloads");
            }
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

    /// Stores the bytes of a blob.
    pub(crate) fn put(&self, blob: &Blob, bytes: &[u8]) -> Result<(), Error> {
        if self.has(&blob.digest) {
            return Ok(());
        }
        let mut ingest = self.begin(blob.clone())?;
        ingest.write(bytes)?;
        ingest.finish()
    }

    /// Begins a blob. The caller holds the lock of the digest.
    pub(crate) fn begin(&self, blob: Blob) -> Result<Ingest, Error> {
        let path = self.begun.join(blob.digest.hex());
        let file = create(&path)?;
        let hash = blob.digest.algorithm().start();
        Ok(Ingest { whole: self.path(&blob.digest), begun: Begun(path), file, blob, written: 0, hash })
    }

    /// Begins a blob whose digest shows at its end.
    pub(crate) fn begin_unnamed(&self, algorithm: Algorithm) -> Result<Unnamed, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = self.imports.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        let file = create(&path)?;
        Ok(Unnamed { begun: Begun(path), file, hash: algorithm.start() })
    }

    /// Keeps a blob that is written, unless it is there. The caller holds the lock of the digest.
    pub(crate) fn finish_unnamed(&self, unnamed: Unnamed) -> Result<(), Error> {
        let digest = unnamed.digest();
        if self.has(&digest) {
            return Ok(());
        }
        let kept = unnamed.file.sync_all().and_then(|()| fs::rename(&unnamed.begun.0, self.path(&digest)));
        kept.map_err(Error::io(format!("cannot keep blob {digest}")))
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

/// A blob that is being written. Dropping an unfinished one removes its file.
#[derive(Debug)]
pub(crate) struct Ingest {
    begun: Begun,
    whole: PathBuf,
    file: File,
    blob: Blob,
    written: u64,
    hash: Hash,
}

/// A blob that is being written before its digest is known. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Unnamed {
    begun: Begun,
    file: File,
    hash: Hash,
}

impl Unnamed {
    /// Writes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(format!("cannot write {}", self.begun.0.display())))
    }

    /// The digest of the bytes so far.
    pub(crate) fn digest(&self) -> Digest {
        self.hash.clone().finish()
    }
}

fn create(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path);
    opened.map_err(Error::io(format!("cannot create {}", path.display())))
}

/// The temporary file of a blob; dropping it removes the file unless it was renamed.
#[derive(Debug)]
struct Begun(PathBuf);

impl Drop for Begun {
    fn drop(&mut self) {
        // Opening the store again removes a file that stays.
        let _ = fs::remove_file(&self.0);
    }
}

impl Ingest {
    /// Starts over: the source cannot resume.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        (self.written, self.hash) = (0, self.blob.digest.algorithm().start());
        let cut = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        cut.map_err(Error::io(format!("cannot rewrite blob {}", self.blob.digest)))
    }

    /// The bytes so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Writes the next bytes; refuses more than the blob's size.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        if self.written > self.blob.size {
            return Err(invalid(&self.blob, format!("it is longer than the {} bytes announced", self.blob.size)));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(format!("cannot write blob {}", self.blob.digest)))
    }

    /// Verifies size and digest, and durably renames the blob into place.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.written != self.blob.size {
            return Err(invalid(
                &self.blob,
                format!("it has {} bytes, {} were announced", self.written, self.blob.size),
            ));
        }
        let Self { begun, whole, file, blob, hash, .. } = self;
        let digest = hash.finish();
        if digest != blob.digest {
            return Err(invalid(&blob, format!("its contents have the digest {digest}")));
        }
        let kept = file.sync_all().and_then(|()| fs::rename(&begun.0, &whole));
        kept.map_err(Error::io(format!("cannot keep blob {digest}")))
    }
}

fn invalid(blob: &Blob, reason: String) -> Error {
    Error::invalid(format!("blob {}", blob.digest), reason)
}

#[cfg(test)]
mod tests {
    use super::Blobs;
    use crate::document::Blob;
    use crate::{Digest, Error};

    fn blob(bytes: &[u8], size: u64) -> Blob {
        Blob::new(Digest::of(bytes), size)
    }

    #[test]
    fn only_the_right_bytes_are_kept_and_nothing_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        for (written, announced, reason) in
            [(&b"helloo"[..], 5, "longer"), (b"hell", 5, "has 4 bytes"), (b"jello", 5, "digest")]
        {
            let mut ingest = blobs.begin(blob(b"hello", announced)).unwrap();
            let error = ingest.write(written).and_then(|()| ingest.finish()).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(reason), "{error}");
        }
        assert_eq!(std::fs::read_dir(root.path().join("ingest")).unwrap().count(), 0);
        assert!(blobs.list().unwrap().is_empty());
        let digest = Digest::of(b"hello");
        blobs.put(&blob(b"hello", 5), b"hello").unwrap();
        assert_eq!(blobs.read(&blob(b"hello", 5)).unwrap(), b"hello");
        blobs.remove(&digest).unwrap();
        blobs.remove(&digest).unwrap();
        assert!(matches!(blobs.file(&digest).unwrap_err(), Error::NotFound { .. }));
    }

    #[test]
    fn a_download_can_start_over() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let mut ingest = blobs.begin(blob(b"hello", 5)).unwrap();
        ingest.write(b"xyz").unwrap();
        ingest.restart().unwrap();
        ingest.write(b"hello").unwrap();
        ingest.finish().unwrap();
        assert!(blobs.has(&Digest::of(b"hello")));
    }

    #[test]
    fn what_an_interrupted_download_left_is_removed_and_a_changed_blob_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        std::fs::write(root.path().join("ingest/left"), "x").unwrap();
        let digest = Digest::of(b"hello");
        blobs.put(&blob(b"hello", 5), b"hello").unwrap();
        std::fs::write(root.path().join("blobs/sha256").join(digest.hex()), "jello").unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(root.path().join("ingest")).unwrap().count(), 0);
        assert!(matches!(blobs.read(&blob(b"hello", 5)).unwrap_err(), Error::Invalid { .. }));
    }
}
