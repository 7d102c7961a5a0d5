//! The table of mounts (getfsstat(2), fstatfs(2)); nix has nmount.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use super::{c_string, checked};

/// Room for mounts that appear between counting and reading them.
const SPARE: usize = 64;

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::freebsd) struct Mounted {
    /// Its type: `nullfs`.
    pub(in crate::freebsd) kind: String,
    /// Its source.
    pub(in crate::freebsd) from: String,
    /// Its mount point, as the host names it.
    pub(in crate::freebsd) on: PathBuf,
    /// Its unique number.
    pub(in crate::freebsd) fsid: [i32; 2],
}

/// Every mount, in the order of mounting.
pub(in crate::freebsd) fn all() -> io::Result<Vec<Mounted>> {
    // SAFETY: without a buffer the call only counts.
    let count = checked(unsafe { libc::getfsstat(null_mut(), 0, libc::MNT_NOWAIT) })?;
    let capacity = usize::try_from(count).unwrap_or_default() + SPARE;
    let mut list: Vec<MaybeUninit<libc::statfs>> = Vec::new();
    list.resize_with(capacity, MaybeUninit::zeroed);
    let size = libc::c_long::try_from(capacity * size_of::<libc::statfs>()).map_err(io::Error::other)?;
    // SAFETY: the buffer has `size` bytes, and the kernel writes whole structures.
    let count = checked(unsafe { libc::getfsstat(list.as_mut_ptr().cast(), size, libc::MNT_NOWAIT) })?;
    list.truncate(usize::try_from(count).unwrap_or_default());
    // SAFETY: zeroed or written by the kernel, the structure is numbers and characters only.
    Ok(list.iter().map(|entry| mounted(unsafe { entry.assume_init_ref() })).collect())
}

/// The mount that an open file is on.
pub(in crate::freebsd) fn of(file: BorrowedFd<'_>) -> io::Result<Mounted> {
    let mut entry = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and the buffer has the size of the structure.
    checked(unsafe { libc::fstatfs(file.as_raw_fd(), entry.as_mut_ptr()) })?;
    // SAFETY: zeroed or written by the kernel, the structure is numbers and characters only.
    Ok(mounted(unsafe { entry.assume_init_ref() }))
}

/// The bytes in use on the tmpfs that is mounted on this path; None: it is none, or not there.
pub(in crate::freebsd) fn used_of_tmpfs(on: &Path) -> Option<u64> {
    let path = c_string(on.to_str()?).ok()?;
    let mut entry = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends in a NUL and the buffer has the size of the structure.
    checked(unsafe { libc::statfs(path.as_ptr(), entry.as_mut_ptr()) }).ok()?;
    // SAFETY: zeroed or written by the kernel, the structure is numbers and characters only.
    let entry = unsafe { entry.assume_init_ref() };
    let found = mounted(entry);
    (found.kind == "tmpfs" && found.on == on).then(|| entry.f_blocks.saturating_sub(entry.f_bfree) * entry.f_bsize)
}

fn mounted(entry: &libc::statfs) -> Mounted {
    let text = |chars: &[libc::c_char]| {
        let bytes: Vec<u8> = chars.iter().take_while(|c| **c != 0).map(|c| c.to_ne_bytes()[0]).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    // SAFETY: an fsid_t is two numbers of 32 bits (sys/_types.h), whose field the libc crate keeps private.
    let fsid = unsafe { *(&raw const entry.f_fsid).cast::<[i32; 2]>() };
    Mounted {
        kind: text(&entry.f_fstypename),
        from: text(&entry.f_mntfromname),
        on: text(&entry.f_mntonname).into(),
        fsid,
    }
}
