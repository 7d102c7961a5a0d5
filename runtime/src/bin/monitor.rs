//! The monitor as an executable of its own: hundreds of them run, and the relocated data of a large executable is private
//! memory of each process. The server finds it beside itself; without it, it starts itself as the monitor.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Ok(args) = host::worker::args(1) else { return ExitCode::SUCCESS };
    runtime::monitor::main(&args)
}
