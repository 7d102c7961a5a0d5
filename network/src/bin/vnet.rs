//! The worker that enters a pod's vnet as an executable of its own: it runs once or twice for every pod, and starting a large
//! executable takes longer than all that it does. The server finds it beside itself; without it, it starts itself.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    network::vnet::main(&args)
}
