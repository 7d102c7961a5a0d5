//! Attached clients, executed processes, and the monitor itself.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use host::run::Tool;
use runtime::ContainerState;
use runtime::spec::ExecSpec;

use crate::bench::{PATIENCE, eventually, in_pod, logged, readable};

/// Reads until the text has come.
fn read_until(output: &mut File, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0u8; 4096];
    while !text.contains(wanted) {
        assert!(readable(output, PATIENCE), "{wanted:?} does not come: {text:?}");
        let count = output.read(&mut chunk).unwrap();
        assert!(count > 0, "the end instead of {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    text
}

#[test]
fn an_attached_client_types_and_reads_and_another_server_takes_over() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("while read line; do echo got $line; done; echo end");
            (spec.stdin, spec.stdin_once) = (true, true);
            bench.start(&spec);
            let watching = bench.runtime.attach(&spec.id, false).unwrap();
            assert!(watching.stdin.is_none());
            let session = runtime::open(bench.settings.clone()).unwrap().attach(&spec.id, true).unwrap();
            let (mut stdin, mut stdout) = (File::from(session.stdin.unwrap()), File::from(session.stdout.unwrap()));
            stdin.write_all(b"one\n").unwrap();
            assert_eq!(read_until(&mut stdout, "one\n"), "got one\n");
            drop(session.control);
            // What was sent before hanging up still arrives; then the input of a process that reads once has ended.
            stdin.write_all(b"two\n").unwrap();
            drop(stdin);
            assert_eq!(read_until(&mut File::from(watching.stdout.unwrap()), "end\n"), "got one\ngot two\nend\n");
            assert_eq!(bench.wait(&spec).code, 0);
        },
    );
}

#[test]
fn clients_that_are_gone_make_room_though_their_input_is_not_read() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("exec sleep 1000");
            spec.stdin = true;
            bench.start(&spec);
            let first = bench.runtime.attach(&spec.id, true).unwrap();
            let mut stdin = File::from(first.stdin.unwrap());
            // The container's pipe takes half of it (pipe(7)), the monitor a little, and the client's pipe the rest.
            stdin.write_all(&[b'x'; 128 << 10]).unwrap();
            for _ in 0..80 {
                drop(bench.runtime.attach(&spec.id, true).unwrap());
            }
            drop(stdin);
        },
    );
}

#[test]
fn a_client_that_stands_still_is_cut_off_and_another_loses_nothing() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("read go; i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done");
            spec.stdin = true;
            bench.start(&spec);
            let still = bench.runtime.attach(&spec.id, false).unwrap();
            let mut session = bench.runtime.attach(&spec.id, true).unwrap();
            let started = Instant::now();
            File::from(session.stdin.take().unwrap()).write_all(b"go\n").unwrap();
            let mut text = String::new();
            File::from(session.stdout.unwrap()).read_to_string(&mut text).unwrap();
            let expected: String = (0..40000).map(|i| format!("line {i}\n")).collect();
            assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
            assert!(started.elapsed() >= Duration::from_secs(9), "the client that stands still holds it for a while");
            assert_eq!(bench.wait(&spec).code, 0);
            assert!(bench.log(&spec) == expected, "the log has every line");
            drop(still);
        },
    );
}

#[test]
fn a_log_that_is_rotated_while_it_is_written_has_every_line() {
    in_pod(
        |_| (),
        |bench| {
            // Each word lets it write 2000 lines.
            let mut spec = bench.spec(
                "i=0; while read go && [ $go = go ]; do end=$((i+2000)); while [ $i -lt $end ]; do echo line $i; i=$((i+1)); done; done",
            );
            spec.stdin = true;
            bench.start(&spec);
            let session = bench.runtime.attach(&spec.id, true).unwrap();
            let mut input = File::from(session.stdin.unwrap());
            drop((session.stdout, session.stderr));
            let log = spec.log_path.clone().unwrap();
            let (rotated, mut text) = (log.with_extension("rotated"), String::new());
            for _ in 0..20 {
                input.write_all(b"go\n").unwrap();
                // As kubelet does it: what was written before the answer is in the old file, and nothing else.
                std::fs::rename(&log, &rotated).unwrap();
                bench.runtime.reopen_log(&spec.id).unwrap();
                text.push_str(&logged(&rotated));
            }
            input.write_all(b"end\n").unwrap();
            assert_eq!(bench.wait(&spec).code, 0);
            text.push_str(&bench.log(&spec));
            let expected: String = (0..40000).map(|i| format!("line {i}\n")).collect();
            assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
        },
    );
}

#[test]
fn a_full_disk_under_a_log_does_not_hold_its_container_up_and_is_told_when_there_is_room() {
    in_pod(
        |_| (),
        |bench| {
            let disk = bench.directory.path().join("small");
            std::fs::create_dir(&disk).unwrap();
            let mount = |args: &[&str]| Tool::new(args[0]).args(&args[1..]).args([&disk]).run().unwrap();
            mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
            let mut spec = bench
                .spec("read go; i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; read go; echo last");
            (spec.stdin, spec.log_path) = (true, Some(disk.join("0.log")));
            bench.start(&spec);
            let log = spec.log_path.clone().unwrap();
            let session = bench.runtime.attach(&spec.id, true).unwrap();
            let (mut input, mut output) = (File::from(session.stdin.unwrap()), File::from(session.stdout.unwrap()));
            input.write_all(b"go\n").unwrap();
            // Everything was taken from the container, and told to who is attached, although the log cannot keep it.
            read_until(&mut output, "line 4999\n");
            let other = bench.spec("echo beside");
            assert_eq!(bench.output(&other).1, "beside\n");
            std::fs::rename(&log, disk.join("old")).unwrap();
            std::fs::remove_file(disk.join("old")).unwrap();
            bench.runtime.reopen_log(&spec.id).unwrap();
            input.write_all(b"go\n").unwrap();
            assert_eq!(bench.wait(&spec).code, 0);
            let text = bench.log(&spec);
            assert!(
                text.ends_with("last\n") && text.contains("entries of this log are lost here: No space left"),
                "{text}"
            );
            mount(&["umount"]);
        },
    );
}

#[test]
fn a_terminal_shows_its_size_and_hangs_up() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("test -t 0 && echo terminal; read line; echo got $line; sleep 1000");
            (spec.process.tty, spec.stdin) = (true, true);
            bench.start(&spec);
            eventually("the log shows the terminal", || bench.log(&spec).contains("terminal\r"));
            let session = bench.runtime.attach(&spec.id, true).unwrap();
            session.control.resize(101, 37).unwrap();
            File::from(session.stdin.unwrap()).write_all(b"hi\n").unwrap();
            assert!(read_until(&mut File::from(session.stdout.unwrap()), "got hi").starts_with("hi\r\n"));
            let shell = ["/bin/sh", "-c", "test -t 1 && echo exec terminal; read x; echo got $x; sleep 1000"];
            let exec = ExecSpec { args: shell.map(str::to_owned).into(), tty: true, stdin: true };
            let session = bench.runtime.exec(&spec.id, &exec).unwrap();
            let mut stdout = File::from(session.stdout.unwrap());
            read_until(&mut stdout, "exec terminal\r\n");
            session.control.resize(90, 30).unwrap();
            let mut stdin = File::from(session.stdin.unwrap());
            stdin.write_all(b"hello\n").unwrap();
            read_until(&mut stdout, "got hello");
            // A shell that is just forking loses a ^C: its own handler notes it, and its child is not yet what it will be.
            let mut code = None;
            eventually("^C ends it", || {
                stdin.write_all(b"\x03").unwrap();
                code = session.control.wait(Duration::from_millis(500)).unwrap();
                code.is_some()
            });
            assert_eq!(code, Some(130));
        },
    );
}

#[test]
fn a_killed_exec_takes_its_daemons_along() {
    in_pod(
        |_| (),
        |bench| {
            let spec = bench.spec("while :; do sleep 1; done");
            bench.start(&spec);
            let count = |name: &str| {
                let script = format!(
                    "n=0; for p in /proc/[0-9]*; do read a < $p/comm; case $a in {name}) n=$((n+1));; esac; done; echo $n"
                );
                let exec =
                    ExecSpec { args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script], tty: false, stdin: false };
                let mut text = String::new();
                let session = bench.runtime.exec(&spec.id, &exec).unwrap();
                File::from(session.stdout.unwrap()).read_to_string(&mut text).unwrap();
                text.trim().parse::<u32>().unwrap()
            };
            let daemons = ["/bin/sh", "-c", "(cat /dev/zero > /dev/null &) & wait; exec cat /dev/zero > /dev/null"];
            for killed in [true, false] {
                let exec = ExecSpec { args: daemons.map(str::to_owned).into(), tty: false, stdin: false };
                let session = bench.runtime.exec(&spec.id, &exec).unwrap();
                eventually("the daemon runs", || count("cat") == 2);
                if killed {
                    session.control.kill().unwrap();
                    assert_eq!(count("cat"), 0);
                }
                drop(session);
                eventually("none is left", || count("cat") == 0);
            }
        },
    );
}

#[test]
fn a_container_whose_monitor_was_killed_is_told_to_be_dead_and_is() {
    in_pod(
        |_| (),
        |bench| {
            let spec = bench.spec("while :; do sleep 1; done");
            bench.start(&spec);
            let started = bench.started(&spec);
            let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
            let ended = bench.runtime.exit_descriptor(&spec.id).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::Signal::SIGKILL).unwrap();
            assert!(readable(&ended, PATIENCE));
            // All who ask at the same time hear of one end.
            let ask = || bench.runtime.container_state(&spec.id).unwrap();
            let states =
                std::thread::scope(|scope| [(); 20].map(|()| scope.spawn(ask)).map(|asked| asked.join().unwrap()));
            match &states[0] {
                ContainerState::Exited { exit, .. } => {
                    assert!(exit.code == 255 && exit.message.contains("monitor"), "{exit:?}")
                }
                other => panic!("{other:?}"),
            }
            assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
            // A process that was killed leaves its cgroup, which is what the kill waits for, before it has ended.
            let ended = || {
                let state = std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap_or_default();
                state.is_empty() || state.contains(") Z")
            };
            eventually("the container's process ends", ended);
        },
    );
}

/// What only this process holds of memory, in KiB (proc_pid_smaps_rollup(5)): all that is not of a file. Pages of the program
/// itself count as private too while there is one monitor alone, and are shared by all of them.
fn private_memory(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let private = text.lines().filter(|line| line.starts_with("Anonymous"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_monitor_is_small() {
    const LIMIT_KIB: u64 = 512;
    in_pod(
        |_| (),
        |bench| {
            let spec =
                bench.spec("i=0; while [ $i -lt 1000 ]; do echo some line $i; i=$((i+1)); done; echo done; sleep 1000");
            let before = Instant::now();
            bench.start(&spec);
            let took = before.elapsed();
            eventually("it has written", || bench.log(&spec).contains("done"));
            let started = bench.started(&spec);
            let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
            let monitor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
            let used = private_memory(monitor);
            println!("a monitor holds {used} KiB; the container was started in {} ms", took.as_millis());
            assert!(used < LIMIT_KIB, "{used} KiB");
        },
    );
}
