//! One directory of a layer, by descriptors, together with what the layers below have there. Where the directory is a copy, or a clone,
//! of what is below, it shows everything by itself. On overlayfs it holds the layer's own files alone, as the upper directory of a
//! mount: a file hides what is below, a directory goes on with the one below, and a character device 0:0 (a whiteout) means that
//! nothing is there. Only the kernel's documentation of overlayfs (filesystems/overlayfs.rst) is relied on.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::copy_up::{self, times};

/// The flags for a directory on the way.
const WALK: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// See the module's description.
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    /// The directory of the same path in the layers below; None: there is none, or `directory` shows it.
    below: Option<OwnedFd>,
}

/// What a name in a directory leads to.
pub(super) enum Step<D = Place> {
    Into(D),
    /// A symbolic link, and its target.
    Link(Vec<u8>),
    /// Neither a directory nor a link.
    File,
    Missing,
}

impl<D> Step<D> {
    fn map<E>(self, into: impl FnOnce(D) -> nix::Result<E>) -> nix::Result<Step<E>> {
        Ok(match self {
            Self::Into(directory) => Step::Into(into(directory)?),
            Self::Link(target) => Step::Link(target),
            Self::File => Step::File,
            Self::Missing => Step::Missing,
        })
    }
}

impl Place {
    pub(super) fn new(directory: OwnedFd, below: Option<OwnedFd>) -> Self {
        Self { directory, below }
    }

    /// The same directory once more.
    pub(super) fn again(&self) -> nix::Result<Self> {
        let open = |directory: &OwnedFd| openat(directory, c".", WALK, Mode::empty());
        Ok(Self { directory: open(&self.directory)?, below: self.below.as_ref().map(open).transpose()? })
    }

    /// Goes one name further. A directory that is only below is made here too.
    pub(super) fn step(&self, name: &OsStr) -> nix::Result<Step> {
        match look_into(&self.directory, name)? {
            Step::File if self.below.is_some() && is_whiteout(look(&self.directory, name)?) => Ok(Step::Missing),
            Step::Missing => match &self.below {
                Some(below) => look_into(below, name)?.map(|_| self.make(name)),
                None => Ok(Step::Missing),
            },
            found => found.map(|directory| Ok(Self { directory, below: self.below_at(name)? })),
        }
    }

    /// Opens a directory of the layer's own by a path without symbolic links; None: something else is there.
    pub(super) fn own(&self, path: &[u8]) -> nix::Result<Option<OwnedFd>> {
        let mut here = openat(&self.directory, c".", WALK, Mode::empty())?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Step::Into(next) = look_into(&here, OsStr::from_bytes(name))? else { return Ok(None) };
            here = next;
        }
        Ok(Some(here))
    }

    fn below_at(&self, name: &OsStr) -> nix::Result<Option<OwnedFd>> {
        let Some(below) = &self.below else { return Ok(None) };
        match look_into(below, name)? {
            Step::Into(below) => Ok(Some(below)),
            _ => Ok(None),
        }
    }

    /// Makes a subdirectory where [`Place::step`] found nothing, and tells how many names it hides.
    pub(super) fn make_missing(&self, name: &OsStr, mode: Mode) -> nix::Result<(Self, usize)> {
        let (made, names) = if look(&self.directory, name)?.is_some() {
            unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir)?;
            self.make_opaque(name)?
        } else {
            (self.make(name)?, 0)
        };
        fchmod(&made.directory, mode)?;
        Ok((made, names))
    }

    /// Makes a subdirectory, which is merged with one below and has its attributes.
    pub(super) fn make(&self, name: &OsStr) -> nix::Result<Self> {
        let Some(below) = self.below_at(name)? else {
            return Ok(Self { directory: self.make_empty(name)?, below: None });
        };
        let directory = self.keep_times(|| {
            let directory = self.make_empty(name)?;
            copy_up::directory(&below, &directory)?;
            Ok(directory)
        })?;
        Ok(Self { directory, below: Some(below) })
    }

    /// Makes a subdirectory in the place of a file or a whiteout. What is below stays hidden, by a whiteout for each of its names,
    /// since the attribute for an opaque directory (`trusted.overlay.opaque`) is not the worker's to set; tells how many there are.
    pub(super) fn make_opaque(&self, name: &OsStr) -> nix::Result<(Self, usize)> {
        let made = Self { directory: self.make_empty(name)?, below: self.below_at(name)? };
        let names = made.below.as_ref().map_or(Ok(Vec::new()), list)?;
        let mut first = None;
        for name in &names {
            // One file of several links, as the kernel makes them, until it has as many as it can have.
            let linked =
                first.map(|first| linkat(&made.directory, first, &made.directory, as_name(name), AtFlags::empty()));
            match linked {
                Some(Ok(())) => {}
                Some(Err(error)) if error != Errno::EMLINK => return Err(error),
                _ => {
                    whiteout(&made.directory, as_name(name))?;
                    first = Some(as_name(name));
                }
            }
        }
        Ok((made, names.len()))
    }

    fn make_empty(&self, name: &OsStr) -> nix::Result<OwnedFd> {
        mkdirat(&self.directory, name, Mode::from_bits_truncate(0o700))?;
        openat(&self.directory, name, WALK, Mode::empty())
    }

    /// Copies something up from below. The directory keeps its times, since the merged view does not change.
    fn keep_times<T>(&self, copy: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
        let (accessed, modified) = times(&fstat(&self.directory)?);
        let copied = copy()?;
        futimens(&self.directory, &accessed, &modified)?;
        Ok(copied)
    }

    /// The names that there may be, also those that are hidden.
    pub(super) fn names(&self) -> nix::Result<BTreeSet<OsString>> {
        let mut names = list(&self.directory)?;
        if let Some(below) = &self.below {
            names.extend(list(below)?);
        }
        Ok(names.into_iter().map(|name| OsString::from_vec(name.into_bytes())).collect())
    }

    /// Makes a name lead to nothing. Idempotent.
    pub(super) fn hide(&self, name: &OsStr) -> nix::Result<()> {
        let below = match &self.below {
            Some(below) => look(below, name)?.is_some(),
            None => false,
        };
        if below && is_whiteout(look(&self.directory, name)?) {
            return Ok(());
        }
        remove(&self.directory, name)?;
        if below { whiteout(&self.directory, name) } else { Ok(()) }
    }

    /// What a name leads to, also below; a file that is only below is copied up, so that a link to it can be made.
    pub(super) fn copy_up(&self, name: &OsStr) -> nix::Result<Option<FileStat>> {
        if let Some(found) = look(&self.directory, name)? {
            return Ok(Some(found).filter(|found| self.below.is_none() || !is_whiteout(Some(*found))));
        }
        let Some(below) = &self.below else { return Ok(None) };
        let Some(found) = look(below, name)? else { return Ok(None) };
        if !is_directory(&found) {
            self.keep_times(|| copy_up::file(below, &self.directory, name, &found))?;
        }
        Ok(Some(found))
    }
}

fn look_into(directory: &OwnedFd, name: &OsStr) -> nix::Result<Step<OwnedFd>> {
    match openat(directory, name, WALK, Mode::empty()) {
        Ok(opened) => Ok(Step::Into(opened)),
        Err(Errno::ENOENT) => Ok(Step::Missing),
        // The errno of O_NOFOLLOW for a symbolic link differs between systems.
        Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EMLINK) => {
            Ok(readlinkat(directory, name).map_or(Step::File, |target| Step::Link(target.into_vec())))
        }
        Err(error) => Err(error),
    }
}

pub(super) fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT)
}

fn is_whiteout(found: Option<FileStat>) -> bool {
    found.is_some_and(|found| kind(&found) == SFlag::S_IFCHR && found.st_rdev == 0)
}

fn whiteout(directory: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    mknodat(directory, name, SFlag::S_IFCHR, Mode::empty(), 0)
}

fn as_name(name: &CString) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
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
    kind(found) == SFlag::S_IFDIR
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
        remove(&inner, as_name(&entry))?;
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir)
}

/// The names in a directory.
fn list(directory: impl AsFd) -> nix::Result<Vec<CString>> {
    let mut opened = Dir::openat(directory, c".", WALK, Mode::empty())?;
    let names = opened.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    names.filter(|name| !matches!(name.as_deref().map(|name| name.to_bytes()), Ok(b"." | b".."))).collect()
}

/// Opens a subdirectory, to set attributes that need a descriptor.
pub(super) fn open(directory: impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    openat(directory, name, WALK, Mode::empty())
}
