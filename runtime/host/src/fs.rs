//! Files that are whole or absent, directories that only their owner enters, and the lock that keeps a second server off a
//! directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Failures;
pub use crate::remove::remove_dir_all;

/// How long a lock is tried for that somebody may only be looking at ([`Lock::is_held`]).
const LOOK: Duration = Duration::from_millis(100);
/// The bits of the group and all others in a mode.
const OTHERS: u32 = 0o077;

/// A file or directory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct FileError {
    /// The operation and the path: `cannot read /var/run/x.json`.
    pub operation: String,
    /// The cause.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl FileError {
    /// For `map_err`.
    pub(crate) fn of<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        verb: &str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self { operation: format!("cannot {verb} {}", path.display()), source: source.into() }
    }
}

/// The paths in a directory, in order; a directory that does not exist has none.
///
/// # Errors
/// Any other error of opendir(3) or readdir(3).
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(FileError::of("list", directory)),
    }
}

/// Writes a file so that a reader, also after a crash, sees either the old contents or the new ones: a temporary file beside
/// it, fsync, rename(2), fsync of the directory.
///
/// # Errors
/// Any error of these calls; the temporary file is removed.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, contents, mode, File::sync_all)?;
    File::open(parent(path)?)?.sync_all()
}

/// Writes a file so that a reader sees either the old contents or the new ones. It does not fsync, which takes longer than
/// creating a jail: for files that do not outlive a reboot.
///
/// # Errors
/// Any error of these calls; the temporary file is removed.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, contents, mode, |_| Ok(()))
}

fn write_beside(path: &Path, contents: &[u8], mode: u32, finish: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    // Two threads may write one file.
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    let temporary = parent(path)?.join(format!(".{}.{process}.{number}", name.to_string_lossy()));
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(mode).open(&temporary);
    let written = opened.and_then(|mut file| {
        file.write_all(contents)?;
        finish(&file)?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // The first error is reported; a temporary file that cannot be removed is found by its name.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no parent directory"))
}

/// Removes a file. Idempotent.
///
/// # Errors
/// Any error of unlink(2) but ENOENT.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes an empty directory. Idempotent.
///
/// # Errors
/// Any error of rmdir(2) but ENOENT.
pub fn remove_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory as [`remove_dir_all`] does, and its file `last` after everything else: as long as something is left,
/// that file identifies the directory. Idempotent.
///
/// # Errors
/// Everything that cannot be removed, in one error; the rest was tried.
pub fn remove_state(directory: &Path, last: &str) -> Result<(), FileError> {
    let mut failures = Failures::<FileError>::default();
    for path in entries(directory)?.iter().filter(|path| !path.ends_with(last)) {
        failures.keep(remove_dir_all(path).map_err(FileError::of("remove", path)));
    }
    if failures.is_empty() {
        failures.keep(remove_dir_all(directory).map_err(FileError::of("remove", directory)));
    }
    failures.result(FileError::of("remove", directory))
}

/// Makes a directory with this mode, and missing parents with the default mode. An existing directory keeps its mode:
/// [`set_mode`] changes it.
///
/// # Errors
/// Any error of mkdir(2); there is something else.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(parent(path)?)?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => set_mode(path, mode),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The permission bits of a file or directory.
///
/// # Errors
/// Any error of stat(2).
pub fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

/// Sets the mode of a file or directory, whatever the umask.
///
/// # Errors
/// Any error of chmod(2).
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The entries of a directory that others than their owner may use, with their modes; no symbolic links.
///
/// # Errors
/// The directory cannot be read.
pub fn open_to_others(directory: &Path) -> io::Result<Vec<(PathBuf, u32)>> {
    let mut open = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() || found.permissions().mode() & OTHERS == 0 => {}
            Ok(found) => open.push((path, found.permissions().mode() & 0o7777)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(open)
}

/// Clears the modes of a directory's entries for the group and all others.
///
/// # Errors
/// The directory cannot be read, a mode cannot be changed.
pub fn close_to_others(directory: &Path) -> io::Result<()> {
    for (path, mode) in open_to_others(directory)? {
        match set_mode(&path, mode & !OTHERS) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A lock on a file, until this value is dropped or the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock on `path`, creating the file; None when another process or thread holds it.
    ///
    /// # Errors
    /// Any error of open(2) or flock(2).
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let until = Instant::now() + LOOK;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(TryLockError::WouldBlock) if Instant::now() > until => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK / 100),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Whether somebody holds the lock on `path`; who only looks does not. No file is made.
    ///
    /// # Errors
    /// Any error of open(2) or flock(2), but for a missing file, whose lock nobody holds.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Lock, close_to_others, make_directory, mode, open_to_others, replace, set_mode, write_atomic};

    #[test]
    fn two_threads_replace_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::thread::scope(|scope| {
            let write = |text: &'static [u8]| (0..500).try_for_each(|_| replace(&path, text, 0o600));
            let threads = [b"one", b"two"].map(|text| scope.spawn(move || write(text)));
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn who_looks_at_a_lock_keeps_nobody_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.lock");
        assert!(!Lock::is_held(&path).unwrap() && !path.exists());
        drop(Lock::take(&path).unwrap());
        let looks = || (0..3000).filter(|_| Lock::is_held(&path).unwrap()).count();
        std::thread::scope(|scope| {
            for looker in [(); 3].map(|()| scope.spawn(looks)) {
                assert_eq!(looker.join().unwrap(), 0, "another looker holds it");
            }
        });
        let taken = std::thread::scope(|scope| {
            let _lookers = [(); 3].map(|()| scope.spawn(looks));
            (0..20).filter(|_| Lock::take(&path).unwrap().is_some()).count()
        });
        assert_eq!(taken, 20);
        let lock = Lock::take(&path).unwrap();
        assert!(Lock::is_held(&path).unwrap() && Lock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(!Lock::is_held(&path).unwrap());
    }

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
    fn what_is_in_a_directory_is_closed_to_others_and_nothing_below_or_outside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("a/b");
        make_directory(&directory, 0o711).unwrap();
        make_directory(&directory, 0o700).unwrap();
        assert_eq!(mode(&directory).unwrap(), 0o711, "one that is there keeps its mode");
        make_directory(&directory.join("d"), 0o755).unwrap();
        let outside = scratch.path().join("outside");
        for file in [directory.join("f"), directory.join("d/below"), outside.clone()] {
            std::fs::write(&file, "").unwrap();
            set_mode(&file, 0o644).unwrap();
        }
        std::os::unix::fs::symlink(&outside, directory.join("link")).unwrap();
        assert_eq!(open_to_others(&directory).unwrap().len(), 2);
        close_to_others(&directory).unwrap();
        assert_eq!(open_to_others(&directory).unwrap(), []);
        let modes = ["d", "f", "d/below", "../../outside"].map(|name| mode(&directory.join(Path::new(name))).unwrap());
        assert_eq!(modes, [0o700, 0o600, 0o644, 0o644]);
        assert!(make_directory(&outside, 0o700).is_err());
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
