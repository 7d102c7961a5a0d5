//! One directory of a layer, by descriptors, together with what the layers below have there. Where the directory is a copy, or a clone,
//! of what is below, it shows everything by itself. On overlayfs it holds the layer's own files alone, as the upper directory of a
//! mount: a file hides what is below, a directory goes on with the one below, and a character device 0:0 (a whiteout) means that
//! nothing is there. Only the kernel's documentation of overlayfs (filesystems/overlayfs.rst) is relied on.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat};
use nix::sys::stat::{futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, symlinkat, unlinkat};

use crate::rootfs::tree;

/// The flags for a directory on the way.
const WALK: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// See the module's description.
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    /// The directory of the same path in the layers below; None: there is none, or `directory` shows it.
    below: Option<OwnedFd>,
}

/// What a name in a directory leads to.
pub(super) enum Step {
    Into(Place),
    /// A symbolic link, and its target.
    Link(Vec<u8>),
    /// Neither a directory nor a link.
    File,
    Missing,
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
            Seen::Directory(directory) => Ok(Step::Into(Self { directory, below: self.below_at(name)? })),
            Seen::Link(target) => Ok(Step::Link(target)),
            Seen::File if self.below.is_some() && is_whiteout(look(&self.directory, name)?) => Ok(Step::Missing),
            Seen::File => Ok(Step::File),
            Seen::Nothing => {
                let Some(below) = &self.below else { return Ok(Step::Missing) };
                match look_into(below, name)? {
                    Seen::Directory(_) => self.make(name, false).map(Step::Into),
                    Seen::Link(target) => Ok(Step::Link(target)),
                    Seen::File => Ok(Step::File),
                    Seen::Nothing => Ok(Step::Missing),
                }
            }
        }
    }

    /// Opens a directory of the layer's own by a path without symbolic links; None: something else is there.
    pub(super) fn own(&self, path: &[u8]) -> nix::Result<Option<OwnedFd>> {
        let mut here = openat(&self.directory, c".", WALK, Mode::empty())?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Seen::Directory(next) = look_into(&here, OsStr::from_bytes(name))? else { return Ok(None) };
            here = next;
        }
        Ok(Some(here))
    }

    fn below_at(&self, name: &OsStr) -> nix::Result<Option<OwnedFd>> {
        let Some(below) = &self.below else { return Ok(None) };
        match look_into(below, name)? {
            Seen::Directory(below) => Ok(Some(below)),
            _ => Ok(None),
        }
    }

    /// Makes a subdirectory where [`Place::step`] found nothing.
    pub(super) fn make_missing(&self, name: &OsStr, mode: Mode) -> nix::Result<Self> {
        let hidden = look(&self.directory, name)?.is_some();
        if hidden {
            unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir)?;
        }
        let made = self.make(name, hidden)?;
        fchmod(&made.directory, mode)?;
        Ok(made)
    }

    /// Makes a subdirectory. One that is below is gone on with, and has its attributes, unless something stood here that hid it:
    /// then it stays hidden, by a whiteout for each of its names, since the attribute for that (`trusted.overlay.opaque`) is not the
    /// worker's to set.
    pub(super) fn make(&self, name: &OsStr, hidden: bool) -> nix::Result<Self> {
        let made = || {
            mkdirat(&self.directory, name, Mode::from_bits_truncate(0o700))?;
            openat(&self.directory, name, WALK, Mode::empty())
        };
        let Some(below) = self.below_at(name)? else { return Ok(Self { directory: made()?, below: None }) };
        let directory = if hidden {
            let directory = made()?;
            list(&below)?.iter().try_for_each(|name| whiteout(&directory, as_name(name)))?;
            directory
        } else {
            self.unnoticed(|| {
                let directory = made()?;
                copy_xattrs(&below, &directory)?;
                copy_attributes(&fstat(&below)?, &self.directory, name)?;
                Ok(directory)
            })?
        };
        Ok(Self { directory, below: Some(below) })
    }

    /// Copies something here that is below: the directory keeps its times, since nothing changes for who sees both.
    fn unnoticed<T>(&self, copy: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
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

    /// What a name leads to, also below; a file that is only below is copied here first, so that a link to it can be made.
    pub(super) fn bring(&self, name: &OsStr) -> nix::Result<Option<FileStat>> {
        if let Some(found) = look(&self.directory, name)? {
            return Ok(Some(found).filter(|found| self.below.is_none() || !is_whiteout(Some(*found))));
        }
        let Some(below) = &self.below else { return Ok(None) };
        let Some(found) = look(below, name)? else { return Ok(None) };
        if !is_directory(&found) {
            self.unnoticed(|| copy_file(below, &self.directory, name, &found))?;
        }
        Ok(Some(found))
    }
}

/// A name in one directory.
enum Seen {
    Directory(OwnedFd),
    Link(Vec<u8>),
    File,
    Nothing,
}

fn look_into(directory: &OwnedFd, name: &OsStr) -> nix::Result<Seen> {
    match openat(directory, name, WALK, Mode::empty()) {
        Ok(opened) => Ok(Seen::Directory(opened)),
        Err(Errno::ENOENT) => Ok(Seen::Nothing),
        // The errno of O_NOFOLLOW for a symbolic link differs between systems.
        Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EMLINK) => {
            Ok(readlinkat(directory, name).map_or(Seen::File, |target| Seen::Link(target.into_vec())))
        }
        Err(error) => Err(error),
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT)
}

fn is_whiteout(found: Option<FileStat>) -> bool {
    found.is_some_and(|found| kind(&found) == SFlag::S_IFCHR && found.st_rdev == 0)
}

fn whiteout(directory: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    mknodat(directory, name, SFlag::S_IFCHR, Mode::empty(), 0)
}

fn times(found: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(found.st_atime, found.st_atime_nsec), TimeSpec::new(found.st_mtime, found.st_mtime_nsec))
}

/// Copies owner, mode and times, in the order in which none undoes another.
fn copy_attributes(found: &FileStat, directory: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    if geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
        fchownat(directory, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    if kind(found) != SFlag::S_IFLNK {
        // It was just made here, and is no symbolic link.
        fchmodat(directory, name, Mode::from_bits_truncate(found.st_mode & 0o7777), FchmodatFlags::FollowSymlink)?;
    }
    let (accessed, modified) = times(found);
    utimensat(directory, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &OsStr, found: &FileStat) -> nix::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    match kind(found) {
        SFlag::S_IFREG => {
            let source = openat(from, name, flags | OFlag::O_RDONLY, Mode::empty())?;
            let target = openat(to, name, flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, mode)?;
            let (source, target) = (File::from(source), File::from(target));
            tree::copy_contents(&source, &target, found.st_size.cast_unsigned()).map_err(errno)?;
            copy_attributes(found, to, name)?;
            // After chown(2), which clears file capabilities.
            tree::copy_xattrs(&source, &target).map_err(errno)
        }
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            copy_attributes(found, to, name)
        }
        other => {
            mknodat(to, name, other, mode, found.st_rdev)?;
            copy_attributes(found, to, name)
        }
    }
}

fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> nix::Result<()> {
    let copied = from.try_clone().and_then(|from| tree::copy_xattrs(&from.into(), &to.try_clone()?.into()));
    copied.map_err(errno)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
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
