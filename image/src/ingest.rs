//! A blob that is being written. Its parts arrive side by side, each from its beginning to its end; the bytes are hashed in their
//! order. How much of each part is there stands behind the blob's own bytes in the same file: a transfer that broke off is
//! resumed, also by the next server. A wrong count does no harm, since the digest tells.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::Blob;
use crate::flow::Flow;
use crate::{Algorithm, Digest, Error, Hash};

/// Bytes of a part: at 1 Gbit/s four at a time take a quarter of a second each, so that requests cost little.
pub(crate) const PART: u64 = 8 << 20;
/// The smallest blob that is resumed, and the fewest stored bytes of one, in bytes.
const KEPT_MIN: u64 = 1 << 20;
/// Only root may read blobs: images may contain secrets.
const MODE: u32 = 0o600;
/// What stands between the blob and the counts: the format, whose parts have [`PART`] bytes.
const MARK: &[u8; 16] = b"cellblock-part-1";
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// See the module's description. Dropping an unfinished one removes its file.
#[derive(Debug)]
pub(crate) struct Ingest {
    begun: Begun,
    whole: PathBuf,
    file: File,
    blob: Blob,
    /// Bytes of each part that are there.
    parts: Vec<u64>,
    hash: Hash,
    hashed: u64,
    /// Some of it is from an earlier pull.
    resumed: bool,
    flow: Arc<Flow>,
}

/// The temporary file of a blob; dropping it removes the file, unless it was renamed or is kept.
#[derive(Debug)]
struct Begun {
    path: PathBuf,
    kept: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.kept {
            // The garbage collection removes a file that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Ingest {
    /// Begins a blob at this path, or resumes an earlier download there. [`Ingest::finish`] renames it to `whole`.
    pub(crate) fn begin(path: PathBuf, whole: PathBuf, blob: Blob) -> Result<Self, Error> {
        let failed = || format!("cannot create {}", path.display());
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(&path);
        let file = opened.map_err(Error::io(failed()))?;
        let begun = Begun { path: path.clone(), kept: false };
        let count = usize::try_from(blob.size.div_ceil(PART)).map_err(Error::failed(failed()))?.max(1);
        let flow = Arc::new(Flow::new(File::open(&path).map_err(Error::io(failed()))?, blob.size));
        let hash = blob.digest.algorithm().start();
        let mut ingest =
            Self { begun, whole, file, blob, parts: vec![0; count], hash, hashed: 0, resumed: false, flow };
        match ingest.found() {
            Some(parts) => {
                (ingest.parts, ingest.resumed) = (parts, true);
                ingest.hash_stored()?;
            }
            None => ingest.clear()?,
        }
        Ok(ingest)
    }

    /// The counts that stand in the file, if it is of this blob.
    fn found(&self) -> Option<Vec<u64>> {
        let length = self.file.metadata().ok()?.len();
        if length != self.blob.size + (MARK.len() + 8 * self.parts.len()) as u64 {
            return None;
        }
        let mut stored = vec![0; MARK.len() + 8 * self.parts.len()];
        self.file.read_exact_at(&mut stored, self.blob.size).ok()?;
        let (mark, counts) = stored.split_at(MARK.len());
        let counts = counts.chunks_exact(8).map(|count| u64::from_le_bytes(count.try_into().expect("it has 8 bytes")));
        let counts: Vec<u64> = counts.collect();
        let fit = counts.iter().enumerate().all(|(at, count)| *count <= self.length(at));
        (mark == MARK && fit && counts.iter().any(|count| *count > 0)).then_some(counts)
    }

    /// Makes a whole blob one whose bytes are all there and have to be verified. If that fails, nothing of it stays. Idempotent.
    pub(crate) fn set_aside(whole: &Path, path: &Path) -> io::Result<()> {
        let kept = || {
            let file = OpenOptions::new().write(true).open(whole)?;
            let size = file.metadata()?.len();
            fs::rename(whole, path)?;
            file.write_all_at(&behind(parts(size).into_iter().map(|(from, to)| to - from)), size)
        };
        match kept() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // There may be no room for the counts.
            Err(error) => host::fs::remove_file(whole).and(host::fs::remove_file(path)).and(Err(error)),
            Ok(()) => Ok(()),
        }
    }

    fn is_resumable(&self) -> bool {
        self.blob.size >= KEPT_MIN
    }

    /// Bytes of a part when it is whole.
    fn length(&self, at: usize) -> u64 {
        (self.blob.size - at as u64 * PART).min(PART)
    }

    /// How far the blob is, for the unpacker.
    pub(crate) fn flow(&self) -> Arc<Flow> {
        Arc::clone(&self.flow)
    }

    /// Bytes that are there.
    pub(crate) fn written(&self) -> u64 {
        self.parts.iter().sum()
    }

    /// What is missing of each unfinished part, from where to where.
    pub(crate) fn missing(&self) -> Vec<(u64, u64)> {
        let parts = self.parts.iter().enumerate();
        let missing = parts.map(|(at, done)| (at as u64 * PART + done, at as u64 * PART + self.length(at)));
        missing.filter(|(from, to)| from < to).collect()
    }

    /// Whether a wrong digest may be an earlier pull's fault.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Discards all bytes.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        self.flow.restart();
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Error> {
        (self.hash, self.hashed, self.resumed) = (self.blob.digest.algorithm().start(), 0, false);
        self.parts.fill(0);
        let prepared = self.file.set_len(0).and_then(|()| {
            if !self.is_resumable() {
                return Ok(());
            }
            self.file.write_all_at(&behind(self.parts.iter().copied()), self.blob.size)
        });
        prepared.map_err(Error::io(self.writing()))
    }

    fn writing(&self) -> String {
        format!("cannot write blob {}", self.blob.digest)
    }

    /// Writes bytes from an offset on, but not those that are there. Refuses more than the blob's size.
    pub(crate) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if offset >= self.blob.size {
                let reason = format!("it is longer than the {} bytes announced", self.blob.size);
                return Err(invalid(&self.blob, reason));
            }
            let at = usize::try_from(offset / PART).expect("a part of the blob");
            let done = at as u64 * PART + self.parts[at];
            let end = at as u64 * PART + self.length(at);
            let (here, rest) =
                bytes.split_at(usize::try_from(end - offset).map_or(bytes.len(), |n| n.min(bytes.len())));
            let new = usize::try_from(done.saturating_sub(offset))
                .map_or(&[][..], |there| here.get(there..).unwrap_or_default());
            if done < offset {
                return Err(Error::failed(self.writing())(format!("bytes {done} to {offset} were left out")));
            }
            self.store(at, done, new)?;
            (offset, bytes) = (offset + here.len() as u64, rest);
        }
        self.hash_stored()
    }

    /// Writes new bytes of a part.
    fn store(&mut self, at: usize, done: u64, new: &[u8]) -> Result<(), Error> {
        self.parts[at] += new.len() as u64;
        let written = self.file.write_all_at(new, done).and_then(|()| {
            if !self.is_resumable() {
                return Ok(());
            }
            let behind = self.blob.size + (MARK.len() + 8 * at) as u64;
            self.file.write_all_at(&self.parts[at].to_le_bytes(), behind)
        });
        written.map_err(Error::io(self.writing()))?;
        if self.hashed == done {
            self.hash.update(new);
            self.hashed += new.len() as u64;
        }
        Ok(())
    }

    /// Hashes what is stored in order and was not hashed when it came.
    fn hash_stored(&mut self) -> Result<(), Error> {
        let mut buffer = Vec::new();
        while self.hashed < self.blob.size {
            let at = usize::try_from(self.hashed / PART).expect("a part of the blob");
            let left = at as u64 * PART + self.parts[at] - self.hashed;
            if left == 0 {
                break;
            }
            buffer.resize(BUFFER, 0);
            let wanted = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let read = self.file.read_exact_at(&mut buffer[..wanted], self.hashed);
            read.map_err(Error::io(format!("cannot read blob {}", self.blob.digest)))?;
            self.hash.update(&buffer[..wanted]);
            self.hashed += wanted as u64;
        }
        self.flow.advance(self.hashed);
        Ok(())
    }

    /// Verifies size and digest.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        if self.hashed != self.blob.size {
            let reason = format!("it has {} bytes, {} were announced", self.hashed, self.blob.size);
            return Err(invalid(&self.blob, reason));
        }
        let digest = self.hash.clone().finish();
        if digest == self.blob.digest {
            return Ok(());
        }
        Err(invalid(&self.blob, format!("its contents have the digest {digest}")))
    }

    /// Verifies the blob and renames it into place. It is not synced: see [`crate::unsettled`].
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.verify()?;
        let kept = self.file.set_len(self.blob.size).and_then(|()| fs::rename(&self.begun.path, &self.whole));
        kept.map_err(Error::io(format!("cannot keep blob {}", self.blob.digest)))?;
        self.begun.kept = true;
        self.flow.end(true);
        Ok(())
    }

    /// Keeps the stored bytes for a later pull, if there are at least [`KEPT_MIN`].
    pub(crate) fn keep(mut self) {
        self.begun.kept = self.is_resumable() && self.written() >= KEPT_MIN;
    }
}

/// A blob that is being written before its digest is known. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Unnamed {
    begun: Begun,
    file: File,
    hash: Hash,
}

impl Unnamed {
    /// Begins a blob at this path.
    pub(crate) fn begin(path: PathBuf, algorithm: Algorithm) -> Result<Self, Error> {
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&path);
        let file = opened.map_err(Error::io(format!("cannot create {}", path.display())))?;
        Ok(Self { begun: Begun { path, kept: false }, file, hash: algorithm.start() })
    }

    /// Writes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(format!("cannot write {}", self.begun.path.display())))
    }

    /// The digest of the bytes so far.
    pub(crate) fn digest(&self) -> Digest {
        self.hash.clone().finish()
    }

    /// Durably renames it into place.
    pub(crate) fn finish(mut self, whole: &Path) -> Result<(), Error> {
        let kept = self.file.sync_all().and_then(|()| fs::rename(&self.begun.path, whole));
        kept.map_err(Error::io(format!("cannot keep {}", whole.display())))?;
        self.begun.kept = true;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.flow.end(false);
    }
}

/// The parts of a blob, from where to where.
pub(crate) fn parts(size: u64) -> Vec<(u64, u64)> {
    (0..size.div_ceil(PART)).map(|at| (at * PART, size.min((at + 1) * PART))).collect()
}

/// What stands behind a blob's own bytes: how many of each part are there.
fn behind(counts: impl Iterator<Item = u64>) -> Vec<u8> {
    MARK.iter().copied().chain(counts.flat_map(u64::to_le_bytes)).collect()
}

fn invalid(blob: &Blob, reason: String) -> Error {
    Error::invalid(format!("blob {}", blob.digest), reason)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Ingest, PART};
    use crate::document::Blob;
    use crate::{Digest, Error};

    fn begin(root: &Path, blob: &Blob) -> Ingest {
        Ingest::begin(root.join("begun"), root.join("whole"), blob.clone()).unwrap()
    }

    fn noise(length: u64) -> Vec<u8> {
        (0..length).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    #[test]
    fn only_the_right_bytes_are_kept_and_nothing_else_stays() {
        let root = tempfile::tempdir().unwrap();
        for (written, announced, reason) in
            [(&b"helloo"[..], 5, "longer"), (b"hell", 5, "has 4 bytes"), (b"jello", 5, "digest")]
        {
            let mut ingest = begin(root.path(), &Blob::new(Digest::of(b"hello"), announced));
            let error = ingest.write(0, written).and_then(|()| ingest.finish()).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(reason), "{error}");
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        let mut ingest = begin(root.path(), &Blob::new(Digest::of(b"hello"), 5));
        ingest.write(0, b"xyz").unwrap();
        ingest.restart().unwrap();
        ingest.write(0, b"hello").unwrap();
        let flow = ingest.flow();
        ingest.finish().unwrap();
        assert_eq!((flow.now().bytes, flow.now().round, flow.now().ended), (5, 1, Some(true)));
        assert_eq!(std::fs::read(root.path().join("whole")).unwrap(), b"hello");
    }

    #[test]
    fn parts_come_in_any_order_and_what_is_there_is_resumed() {
        let root = tempfile::tempdir().unwrap();
        let bytes = noise(2 * PART + 1000);
        let blob = Blob::new(Digest::of(&bytes), bytes.len() as u64);
        let mut ingest = begin(root.path(), &blob);
        let at = |from: u64, to: u64| &bytes[from as usize..to as usize];
        ingest.write(PART, at(PART, PART + 3_000_000)).unwrap();
        ingest.write(0, at(0, 1000)).unwrap();
        assert_eq!(ingest.flow().now().bytes, 1000, "the unpacker gets them in order");
        assert!(ingest.write(2000, b"x").unwrap_err().to_string().contains("write blob"), "a gap is a fault of ours");
        ingest.keep();

        let mut ingest = begin(root.path(), &blob);
        let missing = [(1000, PART), (PART + 3_000_000, 2 * PART), (2 * PART, 2 * PART + 1000)];
        assert_eq!(ingest.missing(), missing);
        assert_eq!((ingest.flow().now().bytes, ingest.is_resumed()), (1000, true));
        // A host that cannot resume sends everything.
        ingest.write(0, &bytes).unwrap();
        ingest.finish().unwrap();
        assert_eq!(std::fs::read(root.path().join("whole")).unwrap(), bytes);
        assert!(!root.path().join("begun").exists());
    }

    #[test]
    fn a_whole_blob_that_is_set_aside_misses_nothing_and_is_verified() {
        let root = tempfile::tempdir().unwrap();
        for (length, damaged) in [(1, false), (1000, false), (2 * PART + 1000, false), (1000, true)] {
            let mut bytes = noise(length);
            let blob = Blob::new(Digest::of(&bytes), length);
            bytes[0] ^= u8::from(damaged);
            std::fs::write(root.path().join("whole"), &bytes).unwrap();
            Ingest::set_aside(&root.path().join("whole"), &root.path().join("begun")).unwrap();
            assert!(!root.path().join("whole").exists());
            // As a second collection does that has listed it too.
            Ingest::set_aside(&root.path().join("whole"), &root.path().join("begun")).unwrap();
            let ingest = begin(root.path(), &blob);
            assert_eq!((ingest.missing(), ingest.is_resumed(), ingest.flow().now().bytes), (vec![], true, length));
            assert_eq!(ingest.finish().is_err(), damaged);
            assert_eq!(root.path().join("whole").exists(), !damaged);
            assert!(damaged || std::fs::read(root.path().join("whole")).unwrap() == bytes);
        }
    }

    #[test]
    fn what_is_too_little_or_of_another_blob_is_not_resumed() {
        let root = tempfile::tempdir().unwrap();
        let bytes = noise(PART);
        let blob = Blob::new(Digest::of(&bytes), PART);
        let mut ingest = begin(root.path(), &blob);
        ingest.write(0, &bytes[..1000]).unwrap();
        ingest.keep();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        for length in [0, PART - 1, PART, PART + 24, PART + 25] {
            std::fs::write(root.path().join("begun"), vec![1; length as usize]).unwrap();
            let ingest = begin(root.path(), &blob);
            assert_eq!((ingest.missing(), ingest.is_resumed()), (vec![(0, PART)], false));
        }
    }
}
