//! The host port listener as an executable of its own: one runs for every pod with host ports, and starting a large executable
//! takes longer than all else that a host port costs. The server finds it beside itself; without it, it starts itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Ok(args) = host::worker::args(1) else { return ExitCode::SUCCESS };
    network::hostport::main(&args)
}
