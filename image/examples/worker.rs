//! The unpacking worker for this crate's tests: test executables have no workers. And a program that pulls, for a test to kill.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use host::fault::Faults;
use host::worker::Workers;
use image::rootfs::Fake;
use image::{Images, Settings};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match (args.get(1).and_then(|word| word.to_str()), &args[1..]) {
        (Some("unpack"), _) => image::unpack::main(&args[2..]),
        (Some("pull"), [_, directory, name]) => pull(Path::new(directory), &name.to_string_lossy()),
        _ => {
            eprintln!("usage: worker unpack, worker pull DIRECTORY NAME");
            ExitCode::FAILURE
        }
    }
}

/// Pulls an image into a store like those of the tests.
fn pull(directory: &Path, name: &str) -> ExitCode {
    let rootfs = Fake::open(&directory.join("fake"), Faults::default()).expect("the directory can be used");
    let settings = Settings {
        root: directory.join("root"),
        registry_config: Some(directory.join("certs.d")),
        registry_timeout: Duration::from_secs(60),
        workers: Workers::of_this_program().expect("this program has a path"),
        rootfs: Arc::new(rootfs),
        platforms: vec!["linux/amd64".to_owned()],
    };
    let images = Images::open(settings).expect("the store opens");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    match runtime.block_on(images.pull(name, None)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", host::chain(&error));
            ExitCode::FAILURE
        }
    }
}
