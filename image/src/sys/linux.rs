//! Linux: extended attributes, and the confinement of the worker to one directory without devices.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};

/// Bytes of all names, and of one value, of extended attributes: the kernel's limits (xattr(7)).
const XATTR_BYTES: usize = 64 << 10;

/// The capabilities that unpacking needs (capabilities(7)): owners, modes and times of any file, device nodes, and file
/// capabilities. The worker drops all others.
const CAPABILITIES: [u32; 6] = [CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP];
const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_MKNOD: u32 = 27;
const CAP_SETFCAP: u32 = 31;
/// Beyond the last capability of any kernel; prctl(2) returns EINVAL for unknown ones.
const CAPABILITY_END: u32 = 64;
/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two words of 32 bits each.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The extended attributes of an open file or directory; empty if the file system has none.
pub(crate) fn xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = vec![0u8; XATTR_BYTES];
    // SAFETY: the buffer is as long as said.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(Vec::new()) } else { Err(error) };
    };
    names.truncate(length);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| Ok((OsString::from_vec(name.to_vec()), xattr(file, name)?))).collect()
}

fn xattr(file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let name = CString::new(name)?;
    let mut value = vec![0u8; XATTR_BYTES];
    // SAFETY: the name ends in NUL, and the buffer is as long as said.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// Sets an extended attribute of an open file or directory.
pub(crate) fn set_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name ends in NUL, and the value is as long as said.
    let done = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes the ACLs that a new file or directory has from its parent (acl(5)); its mode stays.
pub(crate) fn remove_acl(file: BorrowedFd<'_>) -> io::Result<()> {
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        // SAFETY: the name ends in NUL.
        let done = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
        let error = io::Error::last_os_error();
        if done != 0 && !matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) {
            return Err(error);
        }
    }
    Ok(())
}

/// Syncs the file system of a directory; false: there is no call for that.
pub(crate) fn sync(directory: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: a plain descriptor.
    let done = unsafe { libc::syncfs(directory.as_raw_fd()) };
    if done == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

/// What tells this boot from others (random(4)).
pub(crate) fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Closes every descriptor from this one on: the worker inherited them from the server.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the worker has opened nothing yet that it still needs.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Limits the process's address space, in bytes.
pub(crate) fn limit_memory(bytes: libc::rlim_t) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit is read only.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Confines the process to its working directory and returns it. As root: new mount, network and IPC namespaces; a bind mount of
/// the directory with nodev, nosuid and noexec, so that the process cannot open a device node that it makes; the root changed to
/// it; all capabilities but a few dropped; no_new_privs. Without root (tests) only the last.
pub(crate) fn confine() -> io::Result<OwnedFd> {
    if nix::unistd::geteuid().is_root() {
        let directory = std::env::current_dir()?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        mount(Some(&directory), &directory, nothing, MsFlags::MS_BIND, nothing)?;
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(nothing, &directory, nothing, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, nothing)?;
        std::env::set_current_dir(&directory)?;
        nix::unistd::chroot(".")?;
        std::env::set_current_dir("/")?;
        drop_capabilities()?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    // Opened only now: an earlier descriptor would refer to the mount without these restrictions.
    Ok(std::fs::File::open(".")?.into())
}

/// Opens a directory on a detached clone of its mount, for this descriptor alone (open_tree(2), Linux 5.2). A `..`
/// at its root leads nowhere, so that a process that is confined later can keep it.
pub(crate) fn open_detached(directory: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends in NUL.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let tree = i32::try_from(tree).ok().filter(|tree| *tree >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just returned it to this call alone.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    // open_tree(2) opens with O_PATH, which reads no names.
    Ok(openat(&tree, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Makes a device node; false: it is not supported.
pub(crate) fn make_device(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    kind: SFlag,
    number: (u32, u32),
) -> nix::Result<bool> {
    let (major, minor) = number;
    let device = makedev(u64::from(major), u64::from(minor));
    mknodat(directory, name, kind, Mode::from_bits_truncate(0o600), device)?;
    Ok(true)
}

fn drop_capabilities() -> io::Result<()> {
    for capability in (0..CAPABILITY_END).filter(|capability| !CAPABILITIES.contains(capability)) {
        // SAFETY: PR_CAPBSET_DROP takes a number.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if done != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            break;
        }
    }
    let kept = CAPABILITIES.iter().fold(0, |kept, capability| kept | 1u32 << capability);
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let low = CapabilityWords { effective: kept, permitted: kept, inheritable: 0 };
    let words = [low, CapabilityWords::default()];
    // SAFETY: header and words have the layout of version 3, which reads two sets of words.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
