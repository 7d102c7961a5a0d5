//! Linux: a bind mount has the device number of its source; openat2(2) detects mount points.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OpenHow, ResolveFlag, openat2};

/// Opens a directory in another one; EXDEV: something is mounted there.
pub(super) fn enter(above: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(super::WALK).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(above, name, how) {
        // A kernel before 5.6, or a sandbox that does not know the call.
        Err(Errno::ENOSYS | Errno::EPERM) => super::enter_device(above, name),
        opened => opened,
    }
}
