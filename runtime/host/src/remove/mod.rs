//! Removes a directory recursively, but nothing that is mounted in it: the contents of a mount belong to others (a pod's
//! volume, another file system of the node).

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How a directory is opened on the way down.
const WALK: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory whose entries are being removed.
struct Level {
    directory: OwnedFd,
    name: OsString,
    left: Vec<Entry>,
}

struct Entry {
    name: OsString,
    /// Whether it is a directory, or the file system does not say.
    directory: bool,
}

/// Removes a directory recursively. Idempotent. Never follows a symbolic link. Stops at a mount point without touching its
/// contents; entries before it may be gone.
///
/// # Errors
/// Any error of the removal but ENOENT; a mount point, also the directory itself, is named ([`io::ErrorKind::CrossesDevices`]).
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let above = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory: OwnedFd = match File::open(above) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?.into(),
    };
    let first = Entry { name: name.to_owned(), directory: true };
    // A level each instead of recursion: the container decides how deep its tree is.
    let mut levels = vec![Level { directory, name: OsString::new(), left: vec![first] }];
    let mut here = above.to_owned();
    while let Some(level) = levels.last_mut() {
        if let Some(entry) = level.left.pop() {
            let mount = |here: &PathBuf| {
                let text = format!("{} is a mount point: nothing is removed there", here.join(&entry.name).display());
                io::Error::new(io::ErrorKind::CrossesDevices, text)
            };
            match unlink_or_open(level.directory.as_fd(), &entry) {
                Ok(None) => {}
                Ok(Some(directory)) => {
                    let left = list(directory.as_fd())?;
                    here.push(&entry.name);
                    levels.push(Level { directory, name: entry.name, left });
                }
                Err(Errno::EXDEV | Errno::EBUSY) => return Err(mount(&here)),
                Err(error) => return Err(error.into()),
            }
        } else {
            let done = levels.pop().map(|level| level.name).unwrap_or_default();
            here.pop();
            let Some(above) = levels.last() else { break };
            gone(unlinkat(&above.directory, done.as_os_str(), UnlinkatFlags::RemoveDir))?;
        }
    }
    Ok(())
}

/// Removes an entry, or opens it when it is a directory; EXDEV: something is mounted there.
fn unlink_or_open(above: BorrowedFd<'_>, entry: &Entry) -> nix::Result<Option<OwnedFd>> {
    if entry.directory {
        match platform::enter(above, &entry.name) {
            // It is no directory. What O_NOFOLLOW says of a symbolic link differs between systems.
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EMLINK) => {}
            Err(Errno::ENOENT) => return Ok(None),
            entered => return entered.map(Some),
        }
    }
    gone(unlinkat(above, entry.name.as_os_str(), UnlinkatFlags::NoRemoveDir)).map(|()| None)
}

/// Opens a directory in another one; EXDEV: it is on another device.
fn enter_device(above: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let directory = openat(above, name, WALK, Mode::empty())?;
    if fstat(&directory)?.st_dev == fstat(above)?.st_dev { Ok(directory) } else { Err(Errno::EXDEV) }
}

fn list(directory: BorrowedFd<'_>) -> nix::Result<Vec<Entry>> {
    let mut opened = Dir::openat(directory, c".", WALK, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in opened.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let directory = matches!(entry.file_type(), None | Some(Type::Directory));
            entries.push(Entry { name: OsString::from_vec(name.to_vec()), directory });
        }
    }
    Ok(entries)
}

fn gone(done: nix::Result<()>) -> nix::Result<()> {
    if done == Err(Errno::ENOENT) { Ok(()) } else { done }
}

#[cfg(test)]
mod tests;
