//! Resolves paths in the target directory by descriptors alone. A path is walked one component at a time from the root, as a
//! program in the image would: an absolute symbolic link starts at the root again, and a `..` above the root is refused. Nothing
//! else writes to the directory, so there is no race between check and use.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Failure;
use super::entry::shown;

/// Components of a path. A path of 4096 bytes could have 2048; such deep trees are slow to walk and to remove.
const DEPTH_MAX: usize = 512;
/// Symbolic links on one path, as in Linux (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The flags for a directory on the way.
const WALK: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Splits a path of an archive into components, without `.` and empty ones. A leading slash is the layer's root, as some tools
/// write it; a `..` is refused.
pub(super) fn names(path: &[u8]) -> Result<Vec<&OsStr>, Failure> {
    let names: Vec<&OsStr> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(OsStr::from_bytes)
        .collect();
    if names.iter().any(|name| *name == "..") {
        return Err(Failure::invalid(format!("entry {}: it leads out of the layer's root", shown(path))));
    }
    if names.len() > DEPTH_MAX || names.iter().any(|name| name.len() > 255) {
        return Err(Failure::invalid(format!(
            "entry {}: it is nested deeper than {DEPTH_MAX}, or has a name longer than 255 bytes",
            shown(path)
        )));
    }
    Ok(names)
}

/// A resolved directory.
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    /// Its components from the root on, without symbolic links.
    pub(super) path: Vec<Vec<u8>>,
}

/// Walks paths below one directory.
pub(super) struct Places<'a> {
    root: &'a OwnedFd,
    /// The last result and its path: entries of one directory usually follow one another.
    last: Option<(Vec<Vec<u8>>, Rc<Place>)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(root: &'a OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// Clears the cache: a removed entry may have been on its path.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Finds a directory. With `make`, creates it unless another file is in its place; else a missing one is None.
    pub(super) fn directory(&mut self, names: &[&OsStr], make: bool) -> Result<Option<Rc<Place>>, Failure> {
        if let Some((last, place)) = &self.last
            && last.iter().map(Vec::as_slice).eq(names.iter().map(|name| name.as_bytes()))
        {
            return Ok(Some(Rc::clone(place)));
        }
        let path = || shown(names.join(OsStr::new("/")).as_bytes());
        let found = self.walk(names, make, &path)?.map(Rc::new);
        self.last = found.clone().map(|found| (names.iter().map(|name| name.as_bytes().to_vec()).collect(), found));
        Ok(found)
    }

    fn walk(&self, names: &[&OsStr], make: bool, path: &dyn Fn() -> String) -> Result<Option<Place>, Failure> {
        let failed = |error: Errno| Failure::system(format!("cannot reach {}", path()), error);
        let refuse = |reason: &str| Failure::invalid(format!("path {}: {reason}", path()));
        let mut left: Vec<Vec<u8>> = names.iter().rev().map(|name| name.as_bytes().to_vec()).collect();
        let (mut done, mut links) = (Vec::<Vec<u8>>::new(), 0);
        let mut here = self.reopen(&done).map_err(failed)?;
        while let Some(name) = left.pop() {
            if name == b".." {
                done.pop().ok_or_else(|| refuse("a symbolic link on it leads out of the layer's root"))?;
                here = self.reopen(&done).map_err(failed)?;
                continue;
            }
            match openat(&here, name.as_slice(), WALK, Mode::empty()) {
                Ok(next) => (here, done) = (next, [done, vec![name]].concat()),
                Err(Errno::ENOENT) if make => {
                    mkdirat(&here, name.as_slice(), Mode::from_bits_truncate(0o755)).map_err(failed)?;
                    left.push(name);
                }
                Err(Errno::ENOENT) => return Ok(None),
                // The errno of O_NOFOLLOW for a symbolic link differs between systems.
                Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EMLINK) => {
                    let target = match readlinkat(&here, name.as_slice()) {
                        Ok(target) => target,
                        Err(_) if make => return Err(refuse("a file stands where it has a directory")),
                        Err(_) => return Ok(None),
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refuse("it has more than 40 symbolic links"));
                    }
                    let target = target.into_vec();
                    if target.starts_with(b"/") {
                        done.clear();
                        here = self.reopen(&done).map_err(failed)?;
                    }
                    let parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
                    left.extend(parts.rev().map(<[u8]>::to_vec));
                    if left.len() + done.len() > 2 * DEPTH_MAX {
                        return Err(refuse("it is nested too deep"));
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Some(Place { directory: here, path: done }))
    }

    /// Opens components that are known to be directories.
    fn reopen(&self, names: &[Vec<u8>]) -> nix::Result<OwnedFd> {
        let mut here = openat(self.root, c".", WALK, Mode::empty())?;
        for name in names {
            here = openat(&here, name.as_slice(), WALK, Mode::empty())?;
        }
        Ok(here)
    }
}

/// The attributes of an entry, if it exists; does not follow a symbolic link.
pub(super) fn look(directory: impl AsFd, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is a directory.
pub(super) fn is_directory(found: &FileStat) -> bool {
    SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT) == SFlag::S_IFDIR
}

/// Removes a tree. Idempotent. A mount in it is an error.
pub(super) fn remove(directory: impl AsFd, name: &OsStr) -> nix::Result<()> {
    let Some(found) = look(directory.as_fd(), name)? else { return Ok(()) };
    if !is_directory(&found) {
        return unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
    }
    if found.st_dev != fstat(directory.as_fd())?.st_dev {
        return Err(Errno::EXDEV);
    }
    let inner = openat(directory.as_fd(), name, WALK, Mode::empty())?;
    for entry in list(&inner)? {
        remove(&inner, OsStr::from_bytes(entry.as_bytes()))?;
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir)
}

/// The names in a directory.
pub(super) fn list(directory: impl AsFd) -> nix::Result<Vec<CString>> {
    let mut opened = Dir::openat(directory, c".", WALK, Mode::empty())?;
    let names = opened.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    names.filter(|name| !matches!(name.as_deref().map(|name| name.to_bytes()), Ok(b"." | b".."))).collect()
}

/// Opens a subdirectory, to set attributes that need a descriptor.
pub(super) fn open(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(directory, name, WALK, Mode::empty())?)
}
