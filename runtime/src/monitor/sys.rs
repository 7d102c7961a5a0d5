//! The system calls of the monitor that the compiler cannot check: taking descriptors out of a
//! message, signals by number, and the terminal's size.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// How many descriptors one message may carry: the streams of an exec and its exit socket are four.
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

/// Waits until there is something to read, or the end; false: the time is over.
pub(super) fn wait_readable(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: a wait of less than a millisecond is not to become a busy one.
        let left = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut descriptors = [PollFd::new(socket, PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends a signal by its number, real-time ones included.
pub(super) fn kill(pid: Pid, number: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    let result = unsafe { libc::kill(pid.as_raw(), number) };
    Errno::result(result)?;
    Ok(())
}

/// Changes the size of a terminal.
pub(super) fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and the kernel only reads the structure, which lives through the call.
    unsafe { set_window_size(terminal.as_raw_fd(), &raw const size) }?;
    Ok(())
}
