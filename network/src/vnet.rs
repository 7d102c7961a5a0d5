//! The worker that enters a pod's network where only a process can (FreeBSD's vnets) and passes sockets out of it.

use std::ffi::OsString;
use std::process::ExitCode;

/// The word of this worker.
pub const WORKER: &str = "enter";

/// Runs the worker: `enter open|drop JID`, started by the backend with a socket as standard input. Other systems exit
/// with 64 (EX_USAGE, sysexits(3)).
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    crate::platform::vnet_main(args)
}
