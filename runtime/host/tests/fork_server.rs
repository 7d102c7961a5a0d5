//! Workers with a fork server and without one. The test program is its own worker: `report` tells what it got, `sleep` stays.

#![expect(clippy::unwrap_used, reason = "a test program with a main of its own is a test all the same")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use host::worker::{Worker, Workers};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// The worker of this test.
const WORKER: &str = "test-worker";
/// What is waited for comes at once; so long only where it never does.
const PATIENCE: Duration = Duration::from_secs(20);

const CASES: [(&str, fn()); 6] = [
    ("a fork gets its arguments and streams, and nothing else", fork),
    ("a worker without a fork server gets the same", child),
    ("forks come from one process, and its end ends none of them", fork_server_gone),
    ("a fork that hangs is ended", hanging),
    ("forks that have ended leave nothing", reaped),
    ("a detached fork has a session of its own", detached),
];

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == WORKER) {
        return host::worker::args(2).map_or(ExitCode::SUCCESS, |args| work(&args));
    }
    // What cargo test asks every test program; the cases here are not its kind.
    if args.get(1).is_some_and(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    for (name, case) in CASES {
        case();
        println!("fork server: {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// The worker.
fn work(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    if words.first() == Some(&"detached") {
        host::worker::leave().unwrap();
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

fn forking() -> Workers {
    let workers = workers();
    workers.keep_fork_server(WORKER);
    workers
}

fn start(workers: &Workers, args: &[&str]) -> (Worker, PipeReader) {
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

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn told(workers: &Workers) -> Report {
    let (worker, mut output) = start(workers, &["report", "a word", ""]);
    let report = line(&output);
    worker.reap().unwrap();
    assert_eq!(report.words, r#"["report", "a word", ""]"#);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "nobody else holds its output");
    report
}

fn fork() {
    let report = told(&forking());
    assert_eq!(report.descriptors, 0);
    assert_ne!(report.parent, i32::try_from(std::process::id()).unwrap());
}

fn child() {
    let report = told(&workers());
    assert_eq!(report.parent, i32::try_from(std::process::id()).unwrap());
}

fn fork_server_gone() {
    let workers = forking();
    let (staying, output) = start(&workers, &["sleep"]);
    let first = line(&output);
    assert_eq!(told(&workers).parent, first.parent);
    let server = Pid::from_raw(first.parent);
    kill(server, Signal::SIGKILL).unwrap();
    waitid(Id::Pid(server), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    assert_ne!(told(&workers).parent, first.parent, "another is started");
    assert!(lives(first.pid));
    kill(Pid::from_raw(first.pid), Signal::SIGKILL).unwrap();
    // It is nobody's that can be asked.
    staying.end();
    drop(workers);
}

fn hanging() {
    for workers in [forking(), workers()] {
        let (worker, output) = start(&workers, &["sleep"]);
        let report = line(&output);
        assert!(lives(report.pid));
        worker.end();
        assert!(!lives(report.pid));
    }
}

fn reaped() {
    let workers = forking();
    let ended: Vec<Report> = (0..20).map(|_| told(&workers)).collect();
    for report in ended {
        eventually("a zombie stays", || !lives(report.pid));
    }
}

fn detached() {
    for workers in [forking(), workers()] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        workers.spawn_detached(WORKER, &["detached"], theirs.into()).unwrap();
        let report = line(&ours);
        assert_eq!(report.session, report.pid);
        assert_eq!(report.descriptors, 0);
        drop(ours);
    }
}
