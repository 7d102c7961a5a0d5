//! The monitor as an executable of its own: hundreds of them run, and the relocated data of a large executable is private
//! memory of each process. The server finds it beside itself; without it, it starts itself as the monitor.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    runtime::monitor::main(&args)
}
