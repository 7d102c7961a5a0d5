//! The unpacking worker for this crate's tests: test executables have no workers.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_none_or(|word| word != "unpack") {
        eprintln!("usage: worker unpack");
        return ExitCode::FAILURE;
    }
    image::unpack::main(&args[2..])
}
