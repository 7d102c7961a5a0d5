//! Linux: a process' own descriptor (pidfd_open(2), Linux 5.3).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// ESRCH: there is no such process.
pub(in crate::wait) fn exit_descriptor(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and touches no memory of this process.
    let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this process; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
