//! The name server as a process, on loopback, asked by hand-made questions: the crate's own parser reads the answers, and nothing
//! between the two hides what is sent.

#![allow(clippy::unwrap_used, reason = "a test")]

mod cases;
mod world;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == nameserver::WORKER) {
        return nameserver::main(&args[2..]);
    }
    let only = args.get(1).and_then(|word| word.to_str()).filter(|word| !word.starts_with('-')).unwrap_or_default();
    if args.iter().any(|word| word == "--list") {
        cases::ALL.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(only)) {
        case();
        println!("ok {name}");
    }
    ExitCode::SUCCESS
}
