//! Hostile clients: the server survives, keeps its limits, and leaks nothing.

use std::time::Duration;

use streaming::Settings;
use streaming::protocol::spdy_frame::{self as frame, RstStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::fixture::{Fixture, PATIENCE};
use crate::raw_client::{ERROR, Got, RawClient, STDIN, STDOUT, control, status, works};

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let fixture = Fixture::new().await;
    let bomb = [&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0][..], &[0xff; 100]].concat();
    for (name, bytes) in [
        ("version 2", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        ("a SYN_STREAM that is too short", control(1, 0, &[0; 9])),
        ("a SYN_STREAM for stream 0", control(1, 0, &[0; 20])),
        ("headers that do not decompress", control(1, 0, &bomb)),
        ("a control frame that is too long", [&control(8, 0, &[])[..4], &[0, 0xff, 0xff, 0xff]].concat()),
        ("a SYN_REPLY for stream 0", control(2, 0, &[0; 8])),
        ("an RST_STREAM that is too long", control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 1, 0])),
        ("settings that lie about their number", control(4, 0, &[0xff; 12])),
        ("an initial window above 2^31", control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0, 0, 0])),
        ("a PING that is too short", control(6, 0, &[0; 3])),
        ("a GOAWAY that is too long", control(7, 0, &[0; 12])),
        ("a HEADERS without a stream", control(8, 0, &[0; 3])),
        ("a WINDOW_UPDATE of nothing", control(9, 0, &[0; 8])),
        ("a WINDOW_UPDATE that is too short", control(9, 0, &[0; 4])),
        ("a connection's window above 2^31", control(9, 0, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff])),
        ("data for stream 0", frame::data(0, false, 0).to_vec()),
        ("no SPDY at all", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let mut raw = RawClient::exec(&fixture.exec(&["block"], false), false).await;
        raw.send(&bytes).await;
        // The start of a long frame makes the server wait until the client is gone.
        if name == "no SPDY at all" {
            raw.socket.shutdown().await.unwrap();
        }
        let all = raw.rest().await;
        assert!(all.iter().all(|got| matches!(got, Got::GoAway(1))), "{name}: {all:?}");
    }
    works(&fixture).await;
}

#[tokio::test]
async fn streams_that_break_the_protocol_are_reset_and_the_others_live() {
    let fixture = Fixture::new().await;
    let reset = |stream, status| Got::RstStream { stream, status: status as u32 };
    let mut raw = RawClient::exec(&fixture.exec(&["copy"], true), true).await;
    raw.data(99, false, b"to a stream that never was").await;
    let even = raw.syn_stream(10, &[]);
    raw.send(&even).await;
    let again = raw.syn_stream(9, &[("a", "1"), ("a", "2")]);
    raw.send(&again).await;
    let unknown = raw.syn_stream(11, &[("streamtype", "what")]);
    raw.send(&unknown).await;
    let second = raw.syn_stream(13, &[("streamtype", "stdout")]);
    raw.send(&second).await;
    let old = raw.syn_stream(9, &[("streamtype", "stdin")]);
    raw.send(&old).await;
    raw.send(&frame::window_update(STDOUT, 0x7fff_ffff)).await;
    raw.send(&control(77, 0xff, b"a kind that is not known")).await;
    let mut resets = Vec::new();
    while resets.len() < 7 {
        match raw.next().await {
            got @ Got::RstStream { .. } => resets.push(got),
            Got::Closed => panic!("{resets:?}"),
            _ => {}
        }
    }
    for wanted in [
        reset(99, RstStatus::InvalidStream),
        reset(10, RstStatus::ProtocolError),
        reset(9, RstStatus::ProtocolError),
        reset(11, RstStatus::RefusedStream),
        reset(13, RstStatus::RefusedStream),
        reset(STDOUT, RstStatus::FlowControlError),
    ] {
        assert!(resets.contains(&wanted), "{wanted:?} in {resets:?}");
    }
    raw.data(STDIN, true, b"").await;
    assert_eq!(status(&raw.rest().await), r#"{"status":"Success"}"#);
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let fixture = Fixture::new().await;
    let mut raw = RawClient::spdy(&fixture.forward(&[]), "portforward.k8s.io").await;
    for at in 0..520u32 {
        let request = at.to_string();
        let frame = raw.syn_stream(at * 2 + 1, &[("streamtype", "data"), ("port", "1"), ("requestid", &request)]);
        raw.send(&frame).await;
    }
    let (mut accepted, mut refused) = (0, 0);
    while accepted + refused < 520 {
        match raw.next().await {
            Got::SynReply(_) => accepted += 1,
            Got::RstStream { status: 3, .. } => refused += 1,
            Got::Other(4) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((accepted, refused), (512, 8));
}

#[tokio::test]
async fn a_client_that_opens_no_streams_is_sent_away() {
    let settings = Settings { creation_timeout: Duration::from_millis(200), ..Settings::default() };
    let fixture = Fixture::with(settings).await;
    let mut raw = RawClient::spdy(&fixture.exec(&["block"], false), "v4.channel.k8s.io").await;
    assert_eq!(raw.rest().await, [Got::GoAway(1)]);
    let mut raw = RawClient::spdy(&fixture.forward(&[]), "portforward.k8s.io").await;
    raw.open(1, &[("streamtype", "error"), ("port", "1"), ("requestid", "7")]).await;
    let Got::Data { stream: 1, fin: false, bytes } = raw.next().await else { panic!("words follow") };
    assert_eq!(String::from_utf8(bytes).unwrap(), "request 7: timed out waiting for streams");
}

#[tokio::test]
async fn an_idle_client_is_sent_away() {
    let settings = Settings { idle_timeout: Duration::from_millis(200), ..Settings::default() };
    let fixture = Fixture::with(settings).await;
    let mut raw = RawClient::exec(&fixture.exec(&["block"], false), false).await;
    assert_eq!(raw.rest().await, []);
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_refused() {
    let fixture = Fixture::new().await;
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    let url = fixture.exec(&["block"], false);
    let (_, wrong_kind) = RawClient::upgrade(&url.replace("/exec/", "/attach/"), spdy).await;
    assert!(wrong_kind.starts_with("HTTP/1.1 404 "), "{wrong_kind}");
    let (_, plain) = RawClient::upgrade(&fixture.exec(&["block"], false), "").await;
    assert!(plain.starts_with("HTTP/1.1 400 "), "{plain}");
    let (_, long) = RawClient::upgrade(&url, &format!("X: {}\r\n", "x".repeat(1 << 16))).await;
    assert!(long.starts_with("HTTP/1.1 431 ") || long.is_empty(), "{long}");
    works(&fixture).await;
}

#[tokio::test]
async fn a_certificate_is_asked_for_beyond_loopback() {
    let fake = || std::sync::Arc::new(runtime::fake::Fake::default());
    for address in ["0.0.0.0:0", "192.0.2.1:0"] {
        let settings = Settings { address: address.parse().unwrap(), ..Settings::default() };
        let error = streaming::Server::bind(settings, fake()).await.unwrap_err();
        assert!(error.to_string().starts_with("streaming address: "), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_none_is_named() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let certificate = streaming::Certificate { chain: empty.path().to_owned(), key: empty.path().to_owned() };
    let settings = Settings { certificate: Some(certificate), ..Settings::default() };
    let fake = std::sync::Arc::new(runtime::fake::Fake::default());
    let error = streaming::Server::bind(settings, fake).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{:?}", empty.path())), "{error}");
}

#[tokio::test]
async fn stopping_the_server_ends_its_connections() {
    let fixture = Fixture::new().await;
    let mut raw = RawClient::exec(&fixture.exec(&["block"], false), false).await;
    let mut idle =
        tokio::net::TcpStream::connect(crate::fixture::parts(&fixture.exec(&["block"], false)).0).await.unwrap();
    timeout(PATIENCE, fixture.server.stop()).await.unwrap();
    let all = raw.rest().await;
    // A client reads an error stream that only ends as success.
    assert!(all.iter().any(|got| matches!(got, Got::Data { stream: ERROR, .. })), "{all:?}");
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
}
