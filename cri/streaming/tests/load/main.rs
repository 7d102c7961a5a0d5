//! Many clients, broken connections and clients that do not read leave nothing behind. These tests count the descriptors and the
//! memory of their whole process, so they run in a separate one.

#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

#[path = "../streaming/fixture.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
mod fixture;
#[path = "../streaming/raw_client.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
mod raw_client;

use std::time::Duration;

use streaming::protocol::spdy_frame as frame;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::fixture::{Fixture, PATIENCE};
use crate::raw_client::{Got, RawClient, STDIN, STDOUT, status, works};

/// Rounds until memory is stable: the C library keeps the stacks of the fake's processes, which are threads.
const WARM: usize = 2;
/// Memory that may be left after many connections, in bytes.
const LEFT: usize = 10 << 20;

/// One after the other: each counts the whole process.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind() {
    clients_that_are_cut_off_leave_nothing().await;
    a_client_that_does_not_read_is_not_read_from().await;
    two_hundred_at_once_leave_no_memory_behind().await;
}

/// Descriptors of this process; None where there is no /proc.
fn descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

/// Their targets.
fn list() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// Resident memory of this process in bytes; None where there is no /proc.
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split_whitespace().nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

/// Waits until no more descriptors are open than before.
async fn settled(before: Option<usize>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(tokio::time::Instant::now() < deadline, "{:?}, before {before:?}", list());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn clients_that_are_cut_off_leave_nothing() {
    let fixture = Fixture::new().await;
    works(&fixture).await;
    let before = descriptors();
    for at in 0..100 {
        let mut raw = RawClient::exec(&fixture.exec(&["block"], true), true).await;
        let syn = raw.syn_stream(9, &[("streamtype", "stdin")]);
        raw.send(&syn[..at % syn.len()]).await;
        if at % 3 == 0 {
            raw.send(&[&frame::data(STDIN, false, 1 << 20)[..], &[0; 100_000]].concat()).await;
        }
    }
    settled(before).await;
    works(&fixture).await;
}

async fn a_client_that_does_not_read_is_not_read_from() {
    let fixture = Fixture::new().await;
    works(&fixture).await;
    let before = descriptors();
    let mut raw = RawClient::exec(&fixture.exec(&["copy"], true), true).await;
    let (memory, mut sent) = (resident(), 0usize);
    let piece = [&frame::data(STDIN, false, 65536)[..], &[0; 65536]].concat();
    // It never reads: finally the server stops reading from it.
    while timeout(Duration::from_secs(1), raw.socket.write_all(&piece)).await.is_ok_and(|written| written.is_ok()) {
        sent += piece.len();
        assert!(sent < 256 << 20, "{sent} bytes were taken");
    }
    if let (Some(before), Some(now)) = (memory, resident()) {
        assert!(now.saturating_sub(before) < LEFT, "{before} bytes of memory became {now}");
    }
    drop(raw);
    settled(before).await;
}

async fn two_hundred_at_once_leave_no_memory_behind() {
    let fixture = Fixture::new().await;
    let mut before = (descriptors(), resident());
    for round in 0..8 {
        let clients = (0..200).map(|at| {
            let url = fixture.exec(&["copy"], true);
            async move {
                let mut raw = RawClient::exec(&url, true).await;
                let sent = vec![u8::try_from(at).unwrap(); 50_000];
                raw.data(STDIN, true, &sent).await;
                let all = raw.rest().await;
                let mut got = Vec::new();
                for piece in &all {
                    if let Got::Data { stream: STDOUT, bytes, .. } = piece {
                        got.extend_from_slice(bytes);
                    }
                }
                assert!(got == sent, "{} bytes came back", got.len());
                assert_eq!(status(&all), r#"{"status":"Success"}"#);
            }
        });
        futures::future::join_all(clients).await;
        settled(before.0).await;
        if round <= WARM {
            before.1 = resident();
        }
        given_back(before.1).await;
    }
}

/// Waits until the memory that many connections took is given back. The clients are in this very process and may free theirs
/// after the server has given back its own, so this gives back too; e2e holds a server of its own to the same bound.
async fn given_back(before: Option<usize>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while resident() > before.map(|before| before + LEFT) {
        assert!(tokio::time::Instant::now() < deadline, "{before:?} bytes of memory became {:?}", resident());
        tokio::time::sleep(Duration::from_millis(100)).await;
        host::memory::give_back();
    }
}
