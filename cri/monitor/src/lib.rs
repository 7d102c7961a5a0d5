//! What `cellblock-monitor` does, by its first argument: holds a container, listens on a pod's host ports, or enters a pod's
//! vnet. Hundreds of these processes run, and the relocated data of a large executable is private memory of each: they have no
//! async runtime and no TLS. runtime and network own the code and may not know each other, so their mains meet here. The
//! binary `cellblock` takes the same words, for where it is alone.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// The main of a process, given the arguments after its word.
pub type Main = fn(&[OsString]) -> ExitCode;

/// The main that a word names.
#[must_use]
pub fn find(word: &OsStr) -> Option<Main> {
    match word.to_str()? {
        runtime::monitor::WORKER => Some(runtime::monitor::main),
        network::hostport::WORKER => Some(network::hostport::main),
        network::vnet::WORKER => Some(network::vnet::main),
        _ => None,
    }
}
