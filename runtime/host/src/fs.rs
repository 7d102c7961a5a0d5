//! Files that are whole or absent, and the lock that keeps a second server off a directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub use crate::remove::remove_dir_all;

/// Writes a file so that a reader, or a crash, sees either the old contents or the new ones: a temporary file beside it,
/// fsync, rename(2), fsync of the directory. The file gets `mode`.
///
/// # Errors
/// Any error of these calls; the temporary file is gone then.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, contents, mode, File::sync_all)?;
    File::open(parent(path)?)?.sync_all()
}

/// Writes a file so that a reader sees either the old contents or the new ones, for what does not outlive a reboot: no fsync,
/// which takes longer than making the jail or the network that it is written for.
///
/// # Errors
/// Any error of these calls; the temporary file is gone then.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, contents, mode, |_| Ok(()))
}

fn write_beside(path: &Path, contents: &[u8], mode: u32, finish: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let temporary = parent(path)?.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(mode).open(&temporary);
    let written = opened.and_then(|mut file| {
        file.write_all(contents)?;
        finish(&file)?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // The first error is the one to report; a temporary file that cannot be removed is found by its name.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no parent directory"))
}

/// Removes a file; one that is not there is removed already.
///
/// # Errors
/// Any error of unlink(2) but ENOENT.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A lock on a file, held as long as this value lives and given back by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock on `path`, creating the file; None when another process holds it.
    ///
    /// # Errors
    /// Any error of open(2) or flock(2).
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, replace, write_atomic};

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        replace(&path, b"three", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        std::fs::create_dir(&path).unwrap();
        assert!(write_atomic(&path, b"x", 0o600).is_err());
        assert!(replace(&path, b"x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = Lock::take(&path).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&path).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&path).unwrap().is_some());
    }
}
