//! FreeBSD: a queue with one event (kqueue(2), EVFILT_PROC). It comes when the process begins to exit, just before it can be
//! reaped.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{null, null_mut};

use nix::errno::Errno;

/// ESRCH: there is no such process.
pub(in crate::wait) fn exit_descriptor(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: kqueue(2) has no preconditions.
    let descriptor = Errno::result(unsafe { libc::kqueue() })?;
    // SAFETY: the kernel has just made it for this process; nothing else owns it.
    let queue = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let event = libc::kevent {
        ident: usize::try_from(pid).map_err(io::Error::other)?,
        filter: libc::EVFILT_PROC,
        flags: libc::EV_ADD,
        fflags: libc::NOTE_EXIT,
        data: 0,
        udata: null_mut(),
        ext: [0; 4],
    };
    // SAFETY: one change is read; there is no output.
    Errno::result(unsafe { libc::kevent(queue.as_raw_fd(), &raw const event, 1, null_mut(), 0, null()) })?;
    Ok(queue)
}
