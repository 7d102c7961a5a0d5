//! FreeBSD: extended attributes, and the confinement of the worker by capability mode.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::sys::stat::SFlag;

/// Bytes of all names, and of one value, of extended attributes: the limits of Linux, so that its layers can be unpacked.
const XATTR_BYTES: usize = 64 << 10;
/// The prefix of the user namespace on Linux and in layers. FreeBSD has no counterpart of Linux' other namespaces; its system
/// namespace belongs to its own file systems.
const USER: &[u8] = b"user.";

/// The user extended attributes of an open file or directory, with Linux' names; empty if the file system has none.
pub(crate) fn xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = vec![0u8; XATTR_BYTES];
    let namespace = libc::EXTATTR_NAMESPACE_USER;
    // SAFETY: the buffer is as long as said.
    let length = unsafe { libc::extattr_list_fd(file.as_raw_fd(), namespace, names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(Vec::new()) } else { Err(error) };
    };
    names.truncate(length);
    split(&names).into_iter().map(|name| Ok((OsString::from_vec([USER, name].concat()), xattr(file, name)?))).collect()
}

/// Parses a list of names, each preceded by its length (extattr_list_fd(2)).
fn split(mut list: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    while let Some((length, rest)) = list.split_first() {
        let Some((name, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        names.push(name);
        list = rest;
    }
    names
}

fn xattr(file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let name = CString::new(name)?;
    let mut value = vec![0u8; XATTR_BYTES];
    let (namespace, buffer) = (libc::EXTATTR_NAMESPACE_USER, value.as_mut_ptr().cast());
    // SAFETY: the name ends in NUL, and the buffer is as long as said.
    let length = unsafe { libc::extattr_get_fd(file.as_raw_fd(), namespace, name.as_ptr(), buffer, value.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// Sets a user extended attribute of an open file or directory; other namespaces are not supported.
pub(crate) fn set_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    let Some(name) = name.strip_prefix(USER) else { return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) };
    let name = CString::new(name)?;
    let (namespace, buffer) = (libc::EXTATTR_NAMESPACE_USER, value.as_ptr().cast());
    // SAFETY: the name ends in NUL, and the value is as long as said.
    let done = unsafe { libc::extattr_set_fd(file.as_raw_fd(), namespace, name.as_ptr(), buffer, value.len()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns false: FreeBSD has no call for one file system, and sync(2) does not wait (kern_sync in vfs_syscalls.c: MNT_NOWAIT).
#[expect(clippy::unnecessary_wraps, reason = "other systems sync, and may fail")]
pub(crate) fn sync(_directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// What tells this boot from others: kern.boot_id, random for each boot (kern_mib.c).
pub(crate) fn boot() -> io::Result<String> {
    let mut id = [0u8; 16];
    let mut length = id.len();
    let value = id.as_mut_ptr().cast();
    // SAFETY: the buffer is as long as said, and nothing is set.
    let done = unsafe { libc::sysctlbyname(c"kern.boot_id".as_ptr(), value, &raw mut length, std::ptr::null(), 0) };
    if done == 0 { Ok(hex::encode(&id[..length])) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from this one on: the worker inherited them from the server.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the worker has opened nothing yet that it still needs.
    let done = unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Limits the process's address space, in bytes.
pub(crate) fn limit_memory(bytes: libc::rlim_t) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit is read only.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Enters capability mode (capsicum(4)) and returns the working directory: from now on the process reaches only files below it,
/// and the standard streams.
pub(crate) fn confine() -> io::Result<OwnedFd> {
    let directory = std::fs::File::open(".")?;
    // SAFETY: takes nothing.
    let done = unsafe { libc::cap_enter() };
    if done == 0 { Ok(directory.into()) } else { Err(io::Error::last_os_error()) }
}

/// Does nothing: nothing is copied from below where [`open_detached`] refuses.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn remove_acl(_: BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

/// Refuses: overlayfs alone has layers below that a directory does not show.
pub(crate) fn open_detached(_: &Path) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns false: a device node outside devfs(4) is no device, and each container mounts devfs(4).
#[expect(clippy::unnecessary_wraps, reason = "other systems make them, and may fail")]
pub(crate) fn make_device(_: BorrowedFd<'_>, _: &OsStr, _: SFlag, _: (u32, u32)) -> nix::Result<bool> {
    Ok(false)
}
