//! System calls of a worker that was started ahead.

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(not(target_os = "freebsd"))]
mod other;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

#[cfg(target_os = "freebsd")]
pub(crate) use self::freebsd::set_title;
#[cfg(not(target_os = "freebsd"))]
pub(crate) use self::other::set_title;

/// Takes a descriptor that came in a message.
pub(super) fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process when the message was received, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
