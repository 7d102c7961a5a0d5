//! Credentials of a pull reach the registry that they are for and nothing else: no log, whatever its level, no record, no error,
//! no answer. The log of a whole process is read, so these tests have one of their own.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, its helpers too")]

#[expect(dead_code, reason = "shared with other tests")]
#[path = "../server/world.rs"]
mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::admin::PullWithProgressRequest;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::*;
use tonic::{Code, Status};
use world::{World, run_pod};

/// What must stay secret.
const SECRET: &str = "hunter2-the-secret";

/// What the process logs.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A registry that lets nobody in, and repeats whatever it was shown.
fn repeating_registry() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            refuse(stream.unwrap(), address);
        }
    });
    address
}

fn refuse(mut stream: TcpStream, address: SocketAddr) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let header = request.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
    let decoded = header.and_then(|line| STANDARD.decode(line.rsplit(' ').next()?).ok()).unwrap_or_default();
    let said =
        format!("{} {} {}", header.unwrap_or(""), String::from_utf8_lossy(&decoded), request.lines().last().unwrap());
    let body = serde_json::json!({"errors": [{"code": "DENIED", "message": said}]}).to_string();
    let (status, challenge) = match (header, request.contains("/bearer/")) {
        (None, true) => ("401 Unauthorized", format!("www-authenticate: Bearer realm=\"http://{address}/token\"\r\n")),
        (None, false) if request.contains("/basic/") => {
            ("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n".to_owned())
        }
        _ => ("403 Forbidden", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\n{challenge}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // A client that has gone away has its answer already.
    let _ = stream.write_all((head + &body).as_bytes());
}

/// Every way in which CRI carries credentials.
fn every_way() -> Vec<AuthConfig> {
    let secret = || SECRET.to_owned();
    vec![
        AuthConfig { username: "somebody".to_owned(), password: secret(), ..AuthConfig::default() },
        AuthConfig { auth: STANDARD.encode(format!("somebody:{SECRET}")), ..AuthConfig::default() },
        AuthConfig { identity_token: secret(), ..AuthConfig::default() },
        AuthConfig { registry_token: secret(), ..AuthConfig::default() },
        // Malformed ones must not be repeated either.
        AuthConfig { auth: format!("{SECRET}%"), ..AuthConfig::default() },
        AuthConfig { registry_token: format!("{SECRET}\n"), ..AuthConfig::default() },
    ]
}

/// The forms in which it would be found.
fn forms() -> Vec<String> {
    let auth = STANDARD.encode(format!("somebody:{SECRET}"));
    vec![SECRET.to_owned(), auth.clone(), STANDARD.encode(&auth), hex::encode(SECRET)]
}

fn assert_secret(what: &str, text: &[u8]) {
    for form in forms() {
        let found = text.windows(form.len()).position(|window| window == form.as_bytes());
        let around =
            found.map(|at| String::from_utf8_lossy(&text[at.saturating_sub(200)..at + form.len()]).into_owned());
        assert_eq!(around, None, "{what} holds a secret");
    }
}

fn assert_files_are_secret(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            assert_files_are_secret(&path);
        } else if kind.is_file() {
            assert_secret(&path.display().to_string(), &std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn credentials_are_in_no_log_record_error_or_answer() {
    let logged = Logged::default();
    let writer = logged.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let world = World::new();
    let repeating = repeating_registry();
    world.trust(repeating);
    let server = world.start();
    let mut errors: Vec<Status> = Vec::new();
    let mut images = ImageServiceClient::new(server.channel());
    for auth in every_way() {
        for image in ["basic", "bearer", "none"].map(|kind| format!("{repeating}/{kind}/image:1")) {
            let image = Some(ImageSpec { image, ..ImageSpec::default() });
            let request = PullImageRequest { image, auth: Some(auth.clone()), sandbox_config: Some(world::pod("web")) };
            errors.push(server.run(images.pull_image(request)).unwrap_err());
        }
    }
    assert!(errors.iter().any(|status| status.code() == Code::PermissionDenied), "{errors:?}");
    // The operator's pull has one way.
    for image in ["basic", "bearer", "none"].map(|kind| format!("{repeating}/{kind}/image:1")) {
        let (username, password) = ("somebody".to_owned(), SECRET.to_owned());
        let request = PullWithProgressRequest { image, username, password };
        let mut messages = server.run(server.admin().pull_with_progress(request)).unwrap().into_inner();
        errors.push(server.run(messages.message()).unwrap_err());
    }
    // One that is let in, and a pod beside it.
    let image = Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() });
    let request = PullImageRequest { image, auth: Some(every_way().remove(0)), sandbox_config: None };
    server.run(images.pull_image(request)).unwrap();
    let mut client = server.client();
    server.run(client.run_pod_sandbox(run_pod("web"))).unwrap();
    let status = server.run(client.status(StatusRequest { verbose: true })).unwrap().into_inner();
    server.stop();

    for status in &errors {
        assert_secret("an error", format!("{status:?} {status}").as_bytes());
    }
    assert_secret("Status", format!("{status:?}").as_bytes());
    assert_files_are_secret(world.records().parent().and_then(Path::parent).unwrap());
    let log = logged.0.lock().unwrap();
    assert!(log.len() > 1000, "the log is read");
    assert_secret("the log", &log);
    // A pull that fails is told by whichever service it came.
    let log = String::from_utf8_lossy(&log);
    for rpc in ["PullImage", "PullWithProgress"] {
        let told = |line: &str| line.contains(" WARN rpc{") && line.contains(&format!(": {rpc}: "));
        assert!(log.lines().any(told), "the log has no failure of {rpc}");
    }
}
