//! Workers: their arguments, streams and sessions. The test program is its own worker: `report` prints what it got, `sleep` stays.

#![expect(clippy::unwrap_used, reason = "a test program with a main of its own is a test all the same")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitCode};
use std::time::Duration;

use host::worker::Workers;
use nix::sys::signal::kill;
use nix::unistd::Pid;

const WORKER: &str = "test-worker";

const CASES: [(&str, fn()); 4] = [
    ("the monitor is found beside the program and in libexec", monitor),
    ("a worker gets its arguments and streams", child),
    ("a worker that hangs is ended", hanging),
    ("a detached worker has its own session and the standard streams only", detached),
];

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == WORKER) {
        return work(&args[2..]);
    }
    // What cargo test asks every test program; the cases here are not its kind.
    if args.get(1).is_some_and(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    for (name, case) in CASES {
        case();
        println!("worker: {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn work(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    if words.first() == Some(&"detached") {
        host::worker::detach().unwrap();
    }
    let own = std::process::id();
    let session = nix::unistd::getsid(None).unwrap();
    let report = format!("{own} {} {session} {} {words:?}\n", nix::unistd::getppid(), open_descriptors());
    match words.first() {
        Some(&"detached") => {
            let answer = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            UnixStream::from(answer).write_all(report.as_bytes()).unwrap();
        }
        _ => std::io::stdout().write_all(report.as_bytes()).unwrap(),
    }
    if words.first() == Some(&"sleep") {
        std::thread::sleep(Duration::from_secs(1000));
    }
    ExitCode::SUCCESS
}

/// How many descriptors this process has beyond the standard streams.
fn open_descriptors() -> usize {
    (3..256).filter(|number| std::path::Path::new(&format!("/dev/fd/{number}")).exists()).count()
}

#[derive(Debug, PartialEq)]
struct Report {
    pid: i32,
    parent: i32,
    session: i32,
    descriptors: usize,
    words: String,
}

impl Report {
    fn of(line: &str) -> Self {
        let parts: Vec<&str> = line.trim_end().splitn(5, ' ').collect();
        let number = |at: usize| parts[at].parse::<i32>().unwrap_or_else(|_| panic!("{line:?}"));
        let descriptors = usize::try_from(number(3)).unwrap();
        Self { pid: number(0), parent: number(1), session: number(2), descriptors, words: parts[4].to_owned() }
    }
}

fn workers() -> Workers {
    Workers::of_program(&std::env::current_exe().unwrap())
}

fn start(workers: &Workers, args: &[&str]) -> (Child, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    (workers.spawn(WORKER, args, null.into(), Some(OwnedFd::from(writer))).unwrap(), reader)
}

fn line(mut from: impl Read) -> Report {
    let mut text = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    Report::of(&String::from_utf8(text).unwrap())
}

fn lives(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

fn monitor() {
    let prefix = tempfile::tempdir().unwrap();
    let path = |name: &str| prefix.path().join(name);
    ["sbin", "libexec"].iter().for_each(|name| std::fs::create_dir(path(name)).unwrap());
    let workers = Workers::of_program(&path("sbin/cellblock"));
    for name in ["sbin/cellblock", "libexec/cellblock-monitor", "sbin/cellblock-monitor"] {
        std::fs::write(path(name), "").unwrap();
        assert_eq!(workers.monitor("hold").get_program(), path(name));
        assert_eq!(workers.command("unpack").get_program(), path("sbin/cellblock"));
    }
    assert_eq!(Workers::of_program("/cellblock".as_ref()).monitor("hold").get_program(), "/cellblock");
}

fn child() {
    let (mut worker, mut output) = start(&workers(), &["report", "a word", ""]);
    let report = line(&output);
    worker.wait().unwrap();
    assert_eq!(report.parent, i32::try_from(std::process::id()).unwrap());
    assert_eq!(report.words, r#"["report", "a word", ""]"#);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "nobody else holds its output");
}

fn hanging() {
    let (worker, output) = start(&workers(), &["sleep"]);
    let report = line(&output);
    assert!(lives(report.pid));
    host::worker::end(worker);
    assert!(!lives(report.pid));
}

fn detached() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    workers().spawn_detached(WORKER, &["detached"], theirs.into()).unwrap();
    let report = line(&ours);
    assert_eq!(report.session, report.pid);
    assert_eq!(report.descriptors, 0);
}
