//! The host port listener as an executable of its own: one runs for every pod with host ports, and starting a large executable
//! takes longer than all else that a host port costs. The server finds it beside itself; without it, it starts itself.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    network::hostport::main(&args)
}
