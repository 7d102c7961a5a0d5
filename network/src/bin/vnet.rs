//! The worker that enters a pod's vnet as an executable of its own: it runs once or twice for every pod, and starting a large
//! executable takes longer than all that it does. The server finds it beside itself; without it, it starts itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Ok(args) = host::worker::args(1) else { return ExitCode::SUCCESS };
    network::vnet::main(&args)
}
