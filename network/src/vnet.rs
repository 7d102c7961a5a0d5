//! The worker that enters a pod's network where only a process can (FreeBSD's vnets) and passes sockets out of it.

use std::ffi::OsString;
use std::process::ExitCode;

/// The word of this worker.
pub const WORKER: &str = "enter";

/// The worker's entry: `enter WORD JID`, started by the backend only, with a socket as standard input. A system whose backend
/// needs no such worker answers with the exit code of a wrong command line (64, sysexits(3)).
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    crate::platform::vnet_main(args)
}
