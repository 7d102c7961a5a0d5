//! Room reserved on a disk for changes that free room: on a full disk a pod must still be stopped and an image removed, and
//! their records take a few blocks.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{fs, is_exhausted};

/// The file that takes the room.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: usize,
    there: AtomicBool,
}

impl Reserve {
    /// Reserves N bytes in this file. On a full disk [`Reserve::restore`] does it later.
    #[must_use]
    pub fn open(path: &Path, bytes: usize) -> Self {
        let there = path.metadata().is_ok_and(|found| found.len() == bytes as u64);
        let reserve = Self { path: path.to_owned(), bytes, there: AtomicBool::new(there) };
        reserve.restore();
        reserve
    }

    /// Makes a change that frees room; on a full disk, releases the reserve and makes it again.
    ///
    /// # Errors
    /// The change's error.
    pub fn spend<T, E: Error + 'static>(&self, mut change: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        match change() {
            Err(error) if is_exhausted(&error) && self.give_up() => change(),
            done => done,
        }
    }

    /// Reserves the room again, after a change that found room.
    pub fn restore(&self) {
        if self.there.load(Ordering::Acquire) {
            return;
        }
        match fs::write_atomic(&self.path, &noise(self.bytes), 0o600) {
            Ok(()) => self.there.store(true, Ordering::Release),
            Err(error) => tracing::debug!(path = %self.path.display(), %error, "no room can be kept back now"),
        }
    }

    fn give_up(&self) -> bool {
        let was_there = self.there.swap(false, Ordering::AcqRel);
        was_there && self.remove().is_ok()
    }

    fn remove(&self) -> io::Result<()> {
        tracing::warn!(path = %self.path.display(), "the disk is full: the room that was kept back is used");
        fs::remove_file(&self.path)
    }
}

/// Bytes that no file system compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    });
    words.flatten().take(length).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::Reserve;

    fn full() -> io::Error {
        io::Error::from_raw_os_error(nix::libc::ENOSPC)
    }

    #[test]
    fn a_change_without_room_is_made_again_with_what_was_kept_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        let reserve = Reserve::open(&path, 1 << 16);
        assert_eq!(path.metadata().unwrap().len(), 1 << 16);
        let change = || if path.exists() { Err(full()) } else { Ok(1) };
        assert_eq!(reserve.spend(change).unwrap(), 1);
        assert!(!path.exists());
        reserve.restore();
        assert_eq!(path.metadata().unwrap().len(), 1 << 16);
    }

    #[test]
    fn it_is_spent_once_and_for_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        let reserve = Reserve::open(&path, 10);
        let tried = Cell::new(0);
        let fails = |error: fn() -> io::Error| {
            tried.set(tried.get() + 1);
            Err::<(), _>(error())
        };
        assert!(reserve.spend(|| fails(|| io::Error::other("broken"))).is_err());
        assert!(path.exists() && tried.get() == 1);
        assert!(reserve.spend(|| fails(full)).is_err());
        assert!(!path.exists() && tried.get() == 3);
        assert!(reserve.spend(|| fails(full)).is_err());
        assert_eq!(tried.get(), 4);
    }
}
