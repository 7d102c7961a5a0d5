//! Copies files and directories up from the layers below into the upper directory, by descriptors. A copy has the attributes of its
//! original and no others: a directory's default ACL (acl(5)) is not inherited.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, geteuid, symlinkat};

use super::place::kind;
use crate::rootfs::tree;
use crate::sys;

/// When it was accessed and modified.
pub(super) fn times(found: &FileStat) -> (TimeSpec, TimeSpec) {
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

/// Copies the attributes of a directory to one that was just made.
pub(super) fn directory(from: &OwnedFd, to: &OwnedFd) -> nix::Result<()> {
    sys::remove_acl(to.as_fd()).map_err(errno)?;
    copy_xattrs(from, to)?;
    copy_attributes(&fstat(from)?, to, OsStr::new("."))
}

/// Copies a file of any kind but a directory into another directory.
pub(super) fn file(from: &OwnedFd, to: &OwnedFd, name: &OsStr, found: &FileStat) -> nix::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    match kind(found) {
        SFlag::S_IFREG => {
            let source = openat(from, name, flags | OFlag::O_RDONLY, Mode::empty())?;
            let target = openat(to, name, flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, mode)?;
            let (source, target) = (File::from(source), File::from(target));
            sys::remove_acl(target.as_fd()).map_err(errno)?;
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
