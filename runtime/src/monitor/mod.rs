//! The small process that outlives the server, one per container, and one per executed process. It holds the standard streams,
//! writes the log, records the exit, and serves a socket in the container's directory. There are hundreds, so it has one
//! thread, waits with poll(2), and allocates little. A backend launches the processes ([`Launch`]); the server's client is
//! [`Supervised`].

mod attach;
pub(crate) mod client;
mod clock;
mod container;
mod executed;
mod launch;
mod log;
mod poll;
mod protocol;
pub(crate) mod record;
mod serve;
mod session;
mod signal;
mod supervised;
mod sys;
#[cfg(test)]
mod upgrade;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

pub(crate) use launch::{Launch, Launched, Streams, Target};
pub(crate) use supervised::Supervised;

use signal::signal_number;

/// The worker's word: `cellblock-monitor hold`.
pub const WORKER: &str = "hold";
/// The argument of a monitor that executes a process; other monitors get a container's directory.
const EXEC: &str = "exec";

/// The worker [`WORKER`]. Its argument is a container's directory, `exec`, or a command of the backend.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    if let Some(code) = crate::platform::worker(args) {
        return code;
    }
    let done = match args {
        [word] if word == EXEC => executed::run(),
        [directory] => container::run(Path::new(directory)),
        _ => Err(crate::Error::invalid("arguments", format!("{args:?}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cellblock-monitor hold: {}", host::chain(&error));
            if host::is_exhausted(&error) { ExitCode::from(host::worker::EXHAUSTED) } else { ExitCode::FAILURE }
        }
    }
}

/// Leaves the server behind. Returns the descriptor that was the standard input, which becomes /dev/null.
pub(crate) fn detach() -> io::Result<OwnedFd> {
    host::worker::detach()?;
    let given = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(given)
}

/// Receives a descriptor from another program's socket.
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut descriptors = Vec::new();
    sys::receive(socket, &mut io::IoSliceMut::new(&mut [0u8; 256]), &mut descriptors)?;
    descriptors.pop().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
}
