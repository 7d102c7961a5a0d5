//! Waits with a limit: for a descriptor, and for the end of any process.

mod sys;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor that becomes readable when a process has ended; None: there is no such process.
///
/// # Errors
/// No descriptor is left.
pub fn exit_descriptor(pid: i32) -> io::Result<Option<OwnedFd>> {
    match sys::exit_descriptor(pid) {
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Waits until there is something to read, or the end; false: the time is over.
///
/// # Errors
/// Any error of poll(2) but EINTR.
pub fn readable(descriptor: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a wait of less than a millisecond is not to become a busy one.
        let left = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
