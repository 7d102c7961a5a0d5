//! The Linux backend on a real kernel: the conformance suite, and what packets do, seen from inside pods, from the node and
//! from another machine. All of it happens in a network and a mount namespace of its own, so that it leaves nothing behind
//! and meets nobody. It needs root and nft(8); without them it says so and is skipped, which CI=true makes a failure.

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod world;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|word| word == "hostport") {
        return network::hostport::main(&args[1..]);
    }
    // What cargo test passes on: a listing has no cases of its own, a filter chooses among them.
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().filter_map(|arg| arg.to_str()).find(|arg| !arg.starts_with("--")).unwrap_or("");
    if let Some(reason) = world::missing() {
        println!("network on linux: skipped: {reason}");
        return if std::env::var("CI").is_ok_and(|ci| ci == "true") { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    world::isolate();
    for (name, case) in cases::CASES.iter().filter(|(name, _)| name.contains(filter)) {
        let started = std::time::Instant::now();
        case();
        println!("network on linux: {name} ... ok ({} ms)", started.elapsed().as_millis());
    }
    ExitCode::SUCCESS
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    println!("network on linux: skipped: this is another system");
    ExitCode::SUCCESS
}
