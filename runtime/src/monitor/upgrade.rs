//! A server and the monitors of an older one: the fixtures have the requests and replies of a monitor of version 1. The server
//! must make at least these requests and understand the replies. Fixtures never change; a new version gets its own.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::{Value, json};

use super::client;
use super::protocol::{MESSAGE_LIMIT, receive, send};
use super::record;
use crate::{ContainerState, Error};

const PROTOCOL: &str = include_str!("fixtures/protocol-v1.json");
const EXIT: &str = include_str!("fixtures/exit-v1.json");
/// The limit for the server's next request on a connection.
const WAIT: Duration = Duration::from_secs(20);

struct Old {
    exchanges: Vec<Value>,
    /// Which of the exchanges were seen.
    seen: Mutex<Vec<bool>>,
    /// Connections that wait for the end of the container.
    waiting: Mutex<Vec<UnixStream>>,
}

impl Old {
    /// Serves one connection until it ends.
    fn serve(&self, connection: UnixStream) {
        send(connection.as_fd(), &json!({"version": 1}), &[]).unwrap();
        while let Ok((asked, _)) = receive::<Value>(connection.as_fd(), MESSAGE_LIMIT, WAIT) {
            let same = |exchange: &Value| {
                // A monitor ignores fields that it does not know.
                exchange["request"].as_object().unwrap().iter().all(|(field, value)| asked.get(field) == Some(value))
            };
            let number = self.exchanges.iter().position(same);
            let number = number.unwrap_or_else(|| panic!("a monitor of version 1 does not know {asked}"));
            self.seen.lock().unwrap()[number] = true;
            let (output, _) = std::io::pipe().unwrap();
            let descriptors = if asked["do"] == "attach" { vec![output.as_fd()] } else { Vec::new() };
            send(connection.as_fd(), &self.exchanges[number]["reply"], &descriptors).unwrap();
            match asked["do"].as_str() {
                Some("wait") => self.waiting.lock().unwrap().push(connection.try_clone().unwrap()),
                Some("kill") => {
                    for connection in self.waiting.lock().unwrap().drain(..) {
                        connection.shutdown(std::net::Shutdown::Both).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_monitor_of_version_1_is_driven() {
    let directory = tempfile::tempdir().unwrap();
    let exchanges: Vec<Value> = serde_json::from_str(PROTOCOL).unwrap();
    let seen = Mutex::new(vec![false; exchanges.len()]);
    let old = Arc::new(Old { exchanges, seen, waiting: Mutex::default() });
    let listener = UnixListener::bind(record::socket_path(directory.path())).unwrap();
    let monitor = Arc::clone(&old);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (monitor, connection) = (Arc::clone(&monitor), connection.unwrap());
            std::thread::spawn(move || monitor.serve(connection));
        }
    });
    let directory = directory.path();
    let ContainerState::Running(started) = client::state(directory).unwrap() else { panic!("it runs") };
    assert_eq!((started.pid, started.at), (4711, UNIX_EPOCH + Duration::from_secs(1_795_000_000)));
    assert!(client::signal(directory, 15).unwrap());
    let refused = client::reopen_log(directory).unwrap_err();
    assert!(matches!(&refused, Error::Failed { .. }) && host::chain(&refused).contains("No space left"), "{refused:?}");
    let session = client::attach(directory, false).unwrap();
    assert_eq!((session.stdin.is_some(), session.stdout.is_some(), session.stderr.is_some()), (false, true, false));
    session.control.resize(80, 25).unwrap();
    assert!(client::kill(directory).unwrap());
    assert!(old.seen.lock().unwrap().iter().all(|seen| *seen), "the server asks {:?} no more", old.seen);

    // Its end is in its own words too.
    std::fs::write(directory.join("exit.json"), EXIT).unwrap();
    let ContainerState::Exited { exit, .. } = client::state(directory).unwrap() else { panic!("it has ended") };
    assert_eq!((exit.code, exit.at), (143, UNIX_EPOCH + Duration::from_secs(1_795_000_001)));
}

/// What a server concludes from a connection that fails kills the container, so it must be right.
#[test]
fn a_monitor_that_takes_no_client_is_not_dead() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    record::write_start(directory, &record::StartRecord { version: 1, pid: 4711, started_ns: 1 }).unwrap();
    // A socket that refuses, as that of a monitor whose queue is full does on FreeBSD.
    drop(UnixListener::bind(record::socket_path(directory)).unwrap());
    let lock = record::hold(directory).unwrap().unwrap();
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| client::state(directory));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asked.is_finished(), "it waits for a monitor that lives");
        host::fs::remove_file(&record::socket_path(directory)).unwrap();
        let listener = UnixListener::bind(record::socket_path(directory)).unwrap();
        // An older one, with sixty-four clients.
        for _ in 0..10 {
            drop(listener.accept().unwrap());
        }
        let (connection, _) = listener.accept().unwrap();
        send(connection.as_fd(), &json!({"version": 1}), &[]).unwrap();
        receive::<Value>(connection.as_fd(), MESSAGE_LIMIT, WAIT).unwrap();
        send(connection.as_fd(), &json!({"is": "state", "pid": 4711, "started_ns": 1}), &[]).unwrap();
        asked.join().unwrap().unwrap()
    });
    assert!(matches!(asked, ContainerState::Running(_)), "{asked:?}");
    // Without a monitor its end is told, once the backend has killed what is left: there is nothing to kill it by here.
    drop(lock);
    let killed = client::state(directory).unwrap_err();
    assert!(matches!(killed, Error::NotFound { .. }), "{killed:?}");
    // An older one's lock tells nothing: it has a moment.
    std::fs::remove_file(directory.join("monitor.lock")).unwrap();
    let before = Instant::now();
    client::state(directory).unwrap_err();
    assert!(before.elapsed() >= Duration::from_secs(2), "{:?}", before.elapsed());
}

/// Who looks at a monitor's state at the same time finds the same end.
#[test]
fn an_end_is_recorded_once() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    record::write_start(directory, &record::StartRecord { version: 1, pid: 4711, started_ns: 1 }).unwrap();
    let lock = record::hold(directory).unwrap().unwrap();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| client::state(directory))).collect();
        std::thread::sleep(Duration::from_millis(300));
        assert!(asked.iter().all(|asked| !asked.is_finished()), "they wait for the lock");
        std::fs::write(directory.join("exit.json"), EXIT).unwrap();
        drop(lock);
        for state in asked {
            let state = state.join().unwrap().unwrap();
            assert!(matches!(&state, ContainerState::Exited { exit, .. } if exit.code == 143), "{state:?}");
        }
    });
}
