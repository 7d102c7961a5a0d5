//! Clients with flow control, unlike the real ones, and clients without.

use streaming::protocol::spdy_frame as frame;

use tokio::time::timeout;

use crate::fixture::{Fixture, PATIENCE};
use crate::raw_client::{Got, RawClient, STDIN, STDOUT, control, status};

/// The initial window.
const WINDOW: usize = 65536;
/// More than a window.
const BULK: usize = 300_000;

/// A SETTINGS frame with an initial window.
fn initial_window(bytes: u32) -> Vec<u8> {
    control(4, 0, &[&1u32.to_be_bytes()[..], &7u32.to_be_bytes(), &bytes.to_be_bytes()].concat())
}

#[tokio::test]
async fn a_client_that_keeps_windows_is_never_sent_more() {
    let fixture = Fixture::new().await;
    let mut raw = RawClient::spdy(&fixture.exec(&["copy"], true), "v4.channel.k8s.io").await;
    raw.send(&initial_window(100)).await;
    for (stream, kind) in [(1, "error"), (STDIN, "stdin"), (STDOUT, "stdout"), (7, "stderr")] {
        raw.open(stream, &[("streamtype", kind)]).await;
    }
    raw.data(STDIN, false, &[b'x'; 1000]).await;
    let mut seen = 0;
    while let Some(got) = raw.next_within(500).await {
        match got {
            Got::Data { stream: STDOUT, bytes, .. } => seen += bytes.len(),
            Got::Ping(id) => raw.send(&frame::ping(id)).await,
            _ => {}
        }
    }
    assert_eq!(seen, 100, "the window");
    raw.send(&frame::window_update(STDOUT, 50)).await;
    let Got::Data { bytes, .. } = raw.next().await else { panic!("data follow") };
    assert_eq!(bytes.len(), 50, "the increment");
}

/// Sends as much as the windows allow and never opens its own; returns the received bytes and the server's PINGs.
async fn copy_without_opening(answers: bool) -> (usize, usize) {
    let fixture = Fixture::new().await;
    let mut raw = RawClient::exec(&fixture.exec(&["copy"], true), true).await;
    let (mut window, mut rest) = (WINDOW, BULK);
    let (mut seen, mut asked) = (0, 0);
    while seen < BULK {
        let piece = window.min(rest);
        if piece > 0 {
            raw.data(STDIN, false, &vec![0; piece]).await;
            (window, rest) = (window - piece, rest - piece);
        }
        match raw.next().await {
            Got::Data { stream: STDOUT, bytes, .. } => seen += bytes.len(),
            Got::WindowUpdate { stream: STDIN, delta } => window += usize::try_from(delta).unwrap(),
            Got::Ping(id) => {
                asked += 1;
                assert_eq!(seen, WINDOW, "it is asked when its window is used up");
                if answers {
                    raw.send(&frame::ping(id)).await;
                }
                // It is no longer given back what it sends.
                window = rest;
            }
            Got::WindowUpdate { .. } | Got::Other(4) => {}
            other => panic!("{other:?}"),
        }
    }
    (seen, asked)
}

#[tokio::test]
async fn a_client_that_opens_no_window_when_it_is_asked_knows_none() {
    for answers in [true, false] {
        let copied = timeout(PATIENCE, copy_without_opening(answers)).await.expect("it does not come to a stop");
        assert_eq!(copied, (BULK, 1), "answers: {answers}");
    }
}

#[tokio::test]
async fn what_a_client_sends_is_given_back_to_it_unless_it_overruns() {
    let fixture = Fixture::new().await;
    let mut raw = RawClient::exec(&fixture.exec(&["copy"], true), true).await;
    raw.data(STDIN, false, &[0; 40_000]).await;
    let (mut credits, mut echoed) = (0, 0);
    while credits == 0 || echoed < 40_000 {
        match raw.next().await {
            Got::WindowUpdate { stream, delta } => credits += u32::from(stream == STDIN) * delta,
            Got::Data { bytes, .. } => echoed += bytes.len(),
            _ => {}
        }
    }
    assert!((32_768..=40_000).contains(&credits), "{credits}");
    // A client with flow control overruns the window of the connection.
    raw.send(&frame::window_update(STDOUT, 1)).await;
    raw.data(STDIN, false, &[0; 70_000]).await;
    assert!(raw.rest().await.contains(&Got::GoAway(1)));
}

#[tokio::test]
async fn pings_are_answered_and_ours_are_not() {
    let fixture = Fixture::new().await;
    let mut raw = RawClient::exec(&fixture.exec(&["exit", "3"], false), false).await;
    raw.send(&frame::ping(77)).await;
    raw.send(&frame::ping(8)).await;
    let all = raw.rest().await;
    let pings: Vec<&Got> = all.iter().filter(|got| matches!(got, Got::Ping(_))).collect();
    assert!(pings == [&Got::Ping(77)] || pings.is_empty(), "{all:?}");
    assert!(status(&all).contains("\"ExitCode\""), "{all:?}");
}
