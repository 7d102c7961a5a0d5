//! The binary `cellblock-monitor`: see the library.

use std::ffi::OsString;
use std::process::ExitCode;

/// The exit code of a wrong command line: EX_USAGE of sysexits(3).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((main, rest)) = args.split_first().and_then(|(word, rest)| Some((monitor::find(word)?, rest))) else {
        eprintln!("cellblock-monitor: started by cellblock only");
        return ExitCode::from(USAGE);
    };
    main(rest)
}
