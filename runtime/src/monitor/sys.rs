//! The monitor's system calls: descriptors in messages, signals by number, and a terminal's size.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// The limit on descriptors in a message: an exec has its streams and its exit socket.
const DESCRIPTOR_LIMIT: usize = 8;

/// Receives bytes and descriptors (close-on-exec).
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    chunk: &mut IoSliceMut<'_>,
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTOR_LIMIT]);
    let mut vector = [IoSliceMut::new(chunk)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for raw in received {
                // SAFETY: the kernel has just put this descriptor into this process; nothing else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    Ok(message.bytes)
}

/// Sends a signal by number, including real-time ones.
pub(super) fn kill(pid: Pid, number: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    let result = unsafe { libc::kill(pid.as_raw(), number) };
    Errno::result(result)?;
    Ok(())
}

pub(super) fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and the kernel only reads the structure, which lives through the call.
    unsafe { set_window_size(terminal.as_raw_fd(), &raw const size) }?;
    Ok(())
}
