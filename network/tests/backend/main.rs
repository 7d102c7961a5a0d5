//! The backend on a real kernel: the conformance suite, and what packets do, seen from inside pods, from the node and from
//! another machine. It needs root and the system's tools; without them it says so and is skipped, which CI=true makes a
//! failure. The argument chooses cases by a part of their name.

#![expect(clippy::unwrap_used, reason = "a test program with a main of its own is a test all the same")]

mod cases;
mod firewall;
mod repair;
mod spoofing;
mod wire;
mod world;

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let word = args.first().and_then(|word| word.to_str()).unwrap_or("").to_owned();
    match word.as_str() {
        network::hostport::WORKER => return network::hostport::main(&args[1..]),
        network::vnet::WORKER => return network::vnet::main(&args[1..]),
        "wire" => return wire::main(&args[1..]),
        // What cargo test asks every test program; the cases here are not its kind.
        "--list" => return ExitCode::SUCCESS,
        _ => (),
    }
    let filter = args.iter().filter_map(|arg| arg.to_str()).find(|arg| !arg.starts_with("--")).unwrap_or("");
    if let Some(reason) = platform::missing() {
        println!("network: skipped: {reason}");
        return if std::env::var("CI").is_ok_and(|ci| ci == "true") { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    platform::isolate();
    for (name, case) in cases::CASES.iter().filter(|(name, _)| name.contains(filter)) {
        let started = Instant::now();
        case();
        println!("network: {name} ... ok ({} ms)", started.elapsed().as_millis());
    }
    platform::leave();
    ExitCode::SUCCESS
}
