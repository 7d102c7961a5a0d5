//! Executed processes, attached clients, and connections into a pod.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use super::{Bench, Check, PATIENCE, Subject, eventually, readable};
use crate::spec::ExecSpec;
use crate::{ContainerState, Error, Session};

/// More than any pipe or socket holds: the output must be read while the input is written.
const BULK: usize = 4 << 20;

/// Clients at once, more than a monitor lets attach.
const CROWD: usize = 80;

pub(super) const CHECKS: &[Check] = &[
    ("an exec prints, and its exit code is exact", exec),
    ("an exec copies its input", exec_copies),
    ("an exec is killed with its session", exec_killed),
    ("an exec is refused where nothing runs", exec_refused),
    ("an attached client is told of the end", attach),
    ("a container outlives a crowd of clients", crowd),
    ("a port on which nothing listens is unavailable", connect),
];

fn exec_spec(args: &[String], stdin: bool) -> ExecSpec {
    ExecSpec { args: args.to_vec(), tty: false, stdin }
}

fn read_all(session: &mut Session) -> Vec<u8> {
    let mut output = Vec::new();
    let stdout = session.stdout.take().expect("a session has an output");
    File::from(stdout).read_to_end(&mut output).expect("the output can be read");
    output
}

fn code(session: &Session) -> i32 {
    session.control.wait(PATIENCE).expect("the end is known").expect("the process ends in time")
}

fn exec(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let print = exec_spec(&(subject.programs.print)("hello from within"), false);
    let mut session = bench.runtime.exec(&spec.id, &print).expect("a process is executed");
    assert_eq!(read_all(&mut session), b"hello from within\n");
    assert_eq!(code(&session), 0);
    for wanted in [0, 5, 200] {
        let exit = exec_spec(&(subject.programs.exit)(wanted), false);
        let session = bench.runtime.exec(&spec.id, &exit).expect("a process is executed");
        assert_eq!(code(&session), i32::from(wanted));
    }
    let error = bench.runtime.exec(&spec.id, &exec_spec(&["missing".to_owned()], false)).map(|_| ());
    assert!(matches!(error, Err(Error::Command { exit_code: 127, .. })), "{error:?}");
    bench.remove();
}

fn exec_copies(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let mut session =
        bench.runtime.exec(&spec.id, &exec_spec(&subject.programs.copy, true)).expect("a process is executed");
    let mut stdin = File::from(session.stdin.take().expect("it has an input"));
    let sent: Vec<u8> = (0..BULK).map(|i| u8::try_from(i % 251).expect("it is below 256")).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy).expect("the input can be written"));
    let got = read_all(&mut session);
    writer.join().expect("the writer ends");
    assert!(got == sent, "{} of {} bytes came back", got.len(), sent.len());
    assert_eq!(code(&session), 0);
    bench.remove();
}

fn exec_killed(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let session =
        bench.runtime.exec(&spec.id, &exec_spec(&subject.programs.block, false)).expect("a process is executed");
    assert_eq!(session.control.wait(Duration::from_millis(50)).expect("its state is known"), None);
    session.control.kill().expect("it can be killed");
    assert!(readable(&session.control.exit_descriptor().expect("it has an exit"), PATIENCE));
    assert_eq!(code(&session), 137);
    let session =
        bench.runtime.exec(&spec.id, &exec_spec(&subject.programs.block, false)).expect("a process is executed");
    let end = session.control.exit_descriptor().expect("it has an exit");
    drop(session);
    assert!(readable(&end, PATIENCE), "a dropped session ends its process");
    bench.remove();
}

fn exec_refused(subject: &Subject) {
    let bench = Bench::new(subject);
    let created = bench.create(&subject.programs.block);
    let exit = exec_spec(&(subject.programs.exit)(0), false);
    assert!(matches!(bench.runtime.exec(&created.id, &exit), Err(Error::Conflict { .. })));
    assert!(matches!(bench.runtime.attach(&created.id, false), Err(Error::Conflict { .. })));
    let unknown = host::ContainerId::random();
    assert!(matches!(bench.runtime.exec(&unknown, &exit), Err(Error::NotFound { .. })));
    bench.remove();
}

fn attach(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let mut first = bench.runtime.attach(&spec.id, false).expect("a client attaches");
    let second = (subject.open)().attach(&spec.id, false).expect("another client attaches");
    drop(second);
    bench.runtime.kill_container(&spec.id).expect("a container is killed");
    assert_eq!(read_all(&mut first), b"", "the output ends with the container");
    assert_eq!(code(&first), 137);
    bench.remove();
}

/// What cannot be answered at once must not count as dead: that would kill the container.
fn crowd(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let attach = || bench.runtime.attach(&spec.id, false);
    let mut held = Vec::new();
    for _ in 0..CROWD {
        match attach() {
            Ok(session) => held.push(session),
            Err(error) => assert!(matches!(error, Error::Conflict { .. }), "{error:?}"),
        }
    }
    let ask = || bench.runtime.container_state(&spec.id).expect("the state is known");
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..CROWD).map(|_| scope.spawn(ask)).collect();
        for state in asked {
            let state = state.join().expect("it is asked");
            assert!(matches!(state, ContainerState::Running(_)), "{state:?} with {} attached clients", held.len());
        }
    });
    assert!(held.len() >= 20, "only {} clients could attach", held.len());
    held.clear();
    eventually("another client can attach", || attach().is_ok());
    bench.runtime.kill_container(&spec.id).expect("a container is killed");
    assert_eq!(bench.exited(&spec.id).code, 137, "its end is its monitor's to tell");
    bench.remove();
}

fn connect(subject: &Subject) {
    let bench = Bench::new(subject);
    let refused = bench.runtime.connect(&bench.pod, 9);
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    bench.remove();
}
