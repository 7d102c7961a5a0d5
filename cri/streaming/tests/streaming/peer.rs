//! The real client library, as crictl, kubelet and kubectl use it: a small Go program beside these tests.

#![expect(clippy::disallowed_methods, reason = "the clients of a test, which nothing else may start")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};
use streaming::{Certificate, Settings};

use crate::fixture::Fixture;

/// The peer's exit code if something other than the command failed.
const BROKEN: i32 = 125;

/// Builds the program; None, with a message, without Go.
static PEER: LazyLock<Option<String>> = LazyLock::new(|| {
    let built = concat!(env!("CARGO_TARGET_TMPDIR"), "/streaming-peer");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer");
    let result = Command::new("go").args(["build", "-o", built, "."]).current_dir(source).output();
    let problem = match result {
        Ok(output) if output.status.success() => return Some(built.to_owned()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "the peer was not built: {problem}");
    eprintln!("skipped: the peer was not built: {problem}");
    None
});

/// The built client. A test gets it before the URL: the build may take longer than a URL is valid.
struct Peer(&'static str);

impl Peer {
    fn new() -> Option<Self> {
        PEER.as_deref().map(Self)
    }

    /// Runs it on a thread.
    async fn run(&self, arguments: &[&str], stdin: Vec<u8>) -> Output {
        let program = self.0;
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let output = tokio::task::spawn_blocking(move || {
            let pipe = Stdio::piped;
            let mut child =
                Command::new(program).args(arguments).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            // A command that does not read its input closes it.
            let writer = std::thread::spawn(move || input.write_all(&stdin).is_ok());
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap();
            output
        });
        output.await.unwrap()
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const COMMAND_PROTOCOLS: [&str; 4] = ["spdy", "v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"];

#[tokio::test(flavor = "multi_thread")]
async fn a_command_prints_and_its_exit_code_arrives() {
    let Some(peer) = Peer::new() else { return };
    let fixture = Fixture::new().await;
    for protocol in COMMAND_PROTOCOLS {
        let url = fixture.exec(&["print", "hello from within"], false);
        let output = peer.run(&["-url", &url, "-protocol", protocol, "command"], vec![]).await;
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"hello from within\n"[..]), "{protocol}");
        assert_eq!(error(&output), "", "{protocol}");
        let url = fixture.exec(&["exit", "7"], false);
        let output = peer.run(&["-url", &url, "-protocol", protocol, "command"], vec![]).await;
        // Before v4 the code is only part of a text.
        let code = if protocol == "v3.channel.k8s.io" { BROKEN } else { 7 };
        assert_eq!(output.status.code(), Some(code), "{protocol}: {}", error(&output));
    }
}

/// The certificate and its key are fixtures, self-signed for 127.0.0.1, and good for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_it_is_the_same_over_tls() {
    let Some(peer) = Peer::new() else { return };
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streaming").join(name);
    let certificate = Some(Certificate { chain: file("certificate.pem"), key: file("key.pem") });
    let fixture = Fixture::with(Settings { certificate, ..Settings::default() }).await;
    copies(&peer, &fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_is_sent_comes_back_whole() {
    let Some(peer) = Peer::new() else { return };
    copies(&peer, &Fixture::new().await).await;
}

async fn copies(peer: &Peer, fixture: &Fixture) {
    let sent: Vec<u8> = (0..16u32 << 20).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    // Without v5 a WebSocket client cannot say that its input is over.
    for protocol in ["spdy", "v5.channel.k8s.io"] {
        let url = fixture.exec(&["copy"], true);
        let output = peer.run(&["-url", &url, "-protocol", protocol, "-stdin", "command"], sent.clone()).await;
        assert_eq!(output.status.code(), Some(0), "{protocol}: {}", error(&output));
        assert_eq!(Sha256::digest(&output.stdout), Sha256::digest(&sent), "{protocol}: {}", output.stdout.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_an_error_with_words() {
    let Some(peer) = Peer::new() else { return };
    let fixture = Fixture::new().await;
    for protocol in COMMAND_PROTOCOLS {
        let url = fixture.exec(&["missing"], false);
        let output = peer.run(&["-url", &url, "-protocol", protocol, "command"], vec![]).await;
        assert_eq!(output.status.code(), Some(BROKEN), "{protocol}");
        assert!(error(&output).contains("executable file not found"), "{protocol}: {}", error(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_good_once() {
    let Some(peer) = Peer::new() else { return };
    let fixture = Fixture::new().await;
    let url = fixture.exec(&["exit", "0"], false);
    let output = peer.run(&["-url", &url, "command"], vec![]).await;
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    let output = peer.run(&["-url", &url, "command"], vec![]).await;
    assert_eq!(output.status.code(), Some(BROKEN));
    assert!(error(&output).contains("404"), "{}", error(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_clients_attach_and_see_the_end() {
    let Some(peer) = Peer::new() else { return };
    let fixture = Fixture::new().await;
    let urls: Vec<String> = (0..3).map(|_| fixture.command(None, false, false)).collect();
    let arguments: Vec<[&str; 3]> = urls.iter().map(|url| ["-url", url, "command"]).collect();
    let clients = arguments.iter().map(|arguments| peer.run(arguments, vec![]));
    let (kernel, container) = (fixture.kernel.clone(), fixture.container.clone());
    let finish = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        kernel.finish(&container, 3, false);
    };
    let (outputs, ()) = futures::join!(futures::future::join_all(clients), finish);
    for output in outputs {
        assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_many_connections_at_a_time() {
    let Some(peer) = Peer::new() else { return };
    let fixture = Fixture::new().await;
    fixture.echo(80);
    for protocol in ["spdy", "tunnel"] {
        let url = fixture.forward(&[]);
        let arguments =
            ["-url", &url, "-protocol", protocol, "-port", "80", "-connections", "8", "-bytes", "4000000", "forward"];
        let output = peer.run(&arguments, vec![]).await;
        assert_eq!(output.status.code(), Some(0), "{protocol}: {}", error(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_which_nothing_listens_is_an_error_with_words() {
    let Some(peer) = Peer::new() else { return };
    let fixture = Fixture::new().await;
    let url = fixture.forward(&[]);
    let arguments = ["-url", &url, "-port", "81", "-bytes", "10", "forward"];
    let output = peer.run(&arguments, vec![]).await;
    assert_eq!(output.status.code(), Some(BROKEN));
    let wanted = format!("error forwarding port 81 to pod {}", fixture.pod);
    assert!(error(&output).contains(&wanted), "{}", error(&output));
}
