//! Descriptors and connections that are used up: whoever comes then waits, who is connected goes on, and when there is room
//! again everybody is served. Limits hold for a whole process, so these tests have one of their own, and take turns.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, its helpers too")]

#[expect(dead_code, reason = "shared with other tests")]
#[path = "../server/world.rs"]
mod world;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::*;
use socket2::{Domain, SockAddr, Socket, Type};
use tonic::transport::{Channel, Endpoint};
use world::{Running, World, run_pod};

static TURN: Mutex<()> = Mutex::new(());

/// The limit that there is as long as this lives; then the old one again.
struct Limit(rlim_t, rlim_t);

impl Limit {
    fn set(descriptors: rlim_t) -> Self {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(descriptors <= hard, "{descriptors} descriptors are needed, {hard} allowed");
        setrlimit(Resource::RLIMIT_NOFILE, descriptors, hard).unwrap();
        Self(soft, hard)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1).unwrap();
    }
}

/// A client on a socket that is connected already.
fn client(server: &Running, socket: UnixStream) -> RuntimeServiceClient<Channel> {
    socket.set_nonblocking(true).unwrap();
    let socket = Mutex::new(Some(socket));
    let connect = tower::service_fn(move |_| {
        let socket = socket.lock().unwrap().take();
        async move { tokio::net::UnixStream::from_std(socket.expect("it connects once")).map(TokioIo::new) }
    });
    server.run(async {
        RuntimeServiceClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect))
    })
}

async fn answers(client: &mut RuntimeServiceClient<Channel>) {
    client.version(VersionRequest::default()).await.unwrap();
}

#[test]
fn without_a_descriptor_both_sockets_wait_for_one_and_then_serve_who_waited() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new();
    let server = world.start();
    let mut connected = server.client();
    let streaming: std::net::SocketAddr = server.run(async {
        let pod_sandbox_id = connected.run_pod_sandbox(run_pod("a")).await.unwrap().into_inner().pod_sandbox_id;
        let request = PortForwardRequest { pod_sandbox_id, port: vec![80] };
        let url = connected.port_forward(request).await.unwrap().into_inner().url;
        url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap()
    });
    // Those who come late have their own end already: connecting takes no descriptor of theirs.
    let late = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let mut late_stream = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let limit = Limit::set(512);
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    late.connect(&SockAddr::unix(&server.socket).unwrap()).unwrap();
    late_stream.connect(&streaming.into()).unwrap();
    late_stream.write_all(b"GET /exec/nothing HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    late_stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(late_stream.read(&mut [0; 16]).is_err(), "nobody can have taken it");
    server.run(answers(&mut connected));
    drop(taken);
    late_stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = [0; 12];
    late_stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 404");
    let mut late = client(&server, late.into());
    server.run(async { answers(&mut late).await });
    drop(limit);
    server.stop();
}

#[test]
fn one_connection_too_many_waits_until_another_ends() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new();
    let server = world.start();
    let most = cri::CONNECTIONS;
    // Both ends of each are this process's.
    let limit = Limit::set(2 * rlim_t::try_from(most).unwrap() + 512);
    let mut first = server.client();
    server.run(answers(&mut first));
    let connect = || UnixStream::connect(&server.socket).unwrap();
    let held: Vec<UnixStream> = (0..most).map(|_| connect()).collect();
    let mut late = client(&server, connect());
    let waited = server.run(async { tokio::time::timeout(Duration::from_millis(300), answers(&mut late)).await });
    assert!(waited.is_err(), "there is no place for it");
    server.run(answers(&mut first));
    drop(held);
    server.run(answers(&mut late));
    drop(limit);
    server.stop();
}
