//! A registry on loopback with the responses of a test, images for it, and a store to pull them into.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use host::fault::Faults;
use host::worker::Workers;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use image::rootfs::{Chains, Fake};
use image::{Credentials, Digest, Images, Settings};
use serde_json::{Value, json};
use testimage::{Blob, Compression, Layer, Tree};
use tokio::net::TcpListener;

#[path = "../../../runtime/host/tests/support/small_disk.rs"]
mod small_disk;

use small_disk::SmallDisk;

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A response.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Contents,
}

pub(crate) enum Contents {
    Whole(Vec<u8>),
    /// The connection breaks after these bytes.
    Broken(Vec<u8>),
    /// These bytes, repeated without end.
    Endless(Vec<u8>),
    /// These bytes, and then nothing more.
    Stalled(Vec<u8>),
    /// Nothing, not even a head.
    Silent,
    /// These bytes, one by one and slowly.
    Trickling(Vec<u8>),
    /// These bytes, as over a line that is slower than a disk; the number goes down by one when they are sent.
    Paced(Vec<u8>, Arc<AtomicUsize>),
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Contents::Whole(body.into()) }
    }

    /// Whether its body has more than this number of bytes.
    pub(crate) fn is_larger_than(&self, bytes: usize) -> bool {
        matches!(&self.body, Contents::Whole(body) if body.len() > bytes)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

pub(crate) type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

/// The bytes that a request asks for: from where to where.
pub(crate) fn range(seen: &Seen) -> Option<(usize, Option<usize>)> {
    let (from, to) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok().map(|last: usize| last + 1)))
}

/// A server on loopback; it ends with the test's runtime.
pub(crate) struct Registry {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Registry {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer).await
    }

    /// The same, at an address.
    pub(crate) async fn start_at(address: &str, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let mut listener = TcpListener::bind(address).await;
        // A killed one may still have its port for a moment.
        while listener.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            listener = TcpListener::bind(address).await;
        }
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&seen));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                let service = service_fn(move |request| respond(request, Arc::clone(&answer), Arc::clone(&log)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, seen }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The number of requests with this text in their target.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target.contains(part)).count()
    }
}

pub(crate) async fn respond(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<UnsyncBoxBody<Bytes, std::io::Error>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body =
        body.collect().await.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    let seen = Seen { method: parts.method.to_string(), target: parts.uri.to_string(), headers: parts.headers, body };
    log.lock().unwrap().push(seen.clone());
    let reply = answer(&seen);
    let frame = |bytes: Vec<u8>| Ok(Frame::data(Bytes::from(bytes)));
    let slowly = |bytes: Vec<u8>, piece, pause| {
        let pieces: Vec<_> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        stream::iter(pieces).then(move |piece| async move {
            tokio::time::sleep(pause).await;
            frame(piece)
        })
    };
    let body = match reply.body {
        Contents::Whole(bytes) => BodyExt::boxed_unsync(StreamBody::new(stream::iter([frame(bytes)]))),
        Contents::Broken(bytes) => {
            let broken = stream::once(async {
                // The bytes before it are sent first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("broken"))
            });
            BodyExt::boxed_unsync(StreamBody::new(stream::iter([frame(bytes)]).chain(broken).boxed()))
        }
        Contents::Endless(bytes) => BodyExt::boxed_unsync(StreamBody::new(stream::repeat(bytes).map(frame))),
        Contents::Stalled(bytes) => {
            BodyExt::boxed_unsync(StreamBody::new(stream::iter([frame(bytes)]).chain(stream::pending())))
        }
        Contents::Silent => std::future::pending().await,
        Contents::Trickling(bytes) => BodyExt::boxed_unsync(StreamBody::new(slowly(bytes, 1, PATIENCE / 8))),
        Contents::Paced(bytes, running) => {
            let sent = stream::once(async move {
                running.fetch_sub(1, Ordering::SeqCst);
                frame(Vec::new())
            });
            let paced = slowly(bytes, 64 << 10, Duration::from_millis(8));
            BodyExt::boxed_unsync(StreamBody::new(paced.chain(sent)))
        }
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    Ok(response.body(body).unwrap())
}

/// Documents and blobs of images, by the last component of a request's path.
#[derive(Default, Clone)]
pub(crate) struct Content {
    pub(crate) by_name: HashMap<String, Vec<u8>>,
}

impl Content {
    fn put(&mut self, blob: &Blob) -> Value {
        self.by_name.insert(blob.digest.clone(), blob.bytes.to_vec());
        blob.descriptor()
    }

    /// Adds an image of layers (tar, compression) and returns its manifest's descriptor.
    pub(crate) fn image(&mut self, platform: &str, layers: &[(Vec<u8>, &str)]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| Digest::of(tar).to_string()).collect();
        let (os, architecture) = platform.split_once('/').unwrap();
        let config = json!({
            "os": os, "architecture": architecture, "config": {"User": "7:7", "Env": ["A=b"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        self.image_with(&config, layers)
    }

    /// Adds an image whose configuration is this document.
    pub(crate) fn image_with(&mut self, config: &Value, layers: &[(Vec<u8>, &str)]) -> Value {
        let compression = |name: &str| match name {
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            _ => Compression::None,
        };
        let layer = |(tar, name): &(Vec<u8>, &str)| Layer::new(tar, compression(name)).unwrap();
        let layers: Vec<Layer> = layers.iter().map(layer).collect();
        let image = testimage::Image::with_document(&layers, config);
        image.blobs.iter().for_each(|blob| drop(self.put(blob)));
        self.put(&image.manifest)
    }

    /// Adds an index of (platform, manifest) and returns its descriptor.
    pub(crate) fn index(&mut self, entries: &[(&str, Value)]) -> Value {
        self.put(&testimage::index(entries))
    }

    /// Names a document by a tag.
    pub(crate) fn tag(&mut self, tag: &str, document: &Value) {
        let bytes = self.by_name[document["digest"].as_str().unwrap()].clone();
        self.by_name.insert(tag.to_owned(), bytes);
    }

    /// Responds like a correct registry.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let path = seen.target.split('?').next().unwrap();
        let name = path.rsplit('/').next().unwrap();
        match self.by_name.get(name) {
            Some(bytes) => match range(seen) {
                Some((from, to)) => Reply::new(206, bytes[from..to.unwrap_or(bytes.len())].to_vec()),
                None => Reply::new(200, bytes.clone()),
            },
            None => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        }
    }
}

/// An index with the tag `1`, and its image of three layers, each with another compression.
pub(crate) fn content() -> Content {
    let mut content = Content::default();
    let layers = [
        (layer(&[("a/", ""), ("a/one", "1"), ("a/two", "2"), ("gone", "x")]), "gzip"),
        (layer(&[("a/.wh.two", ""), (".wh.gone", ""), ("b", "b")]), "zstd"),
        (layer(&[("a/three", "3")]), ""),
    ];
    let wanted = content.image("linux/amd64", &layers);
    let other = content.image("freebsd/amd64", &layers);
    let index = content.index(&[("freebsd/amd64", other), ("linux/amd64", wanted)]);
    content.tag("1", &index);
    content.tag("2", &index);
    content
}

/// Serves it like a correct registry.
pub(crate) async fn serve(content: Content) -> Registry {
    Registry::start(move |seen| content.answer(seen)).await
}

pub(crate) fn credentials() -> Credentials {
    Credentials { username: "somebody".to_owned(), password: "pass-x".to_owned(), ..Credentials::default() }
}

/// A layer with these files; a name that ends in a slash is a directory.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let add = |tree: Tree, (name, contents): &(&str, &str)| match name.strip_suffix('/') {
        Some(directory) => tree.directory(directory, 0o755),
        None => tree.file(name, contents),
    };
    files.iter().fold(Tree::default(), add).tar().unwrap()
}

/// How long a store of [`Store::impatient`] waits for a registry.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A store in a temporary directory.
pub(crate) struct Store {
    pub(crate) images: Images,
    pub(crate) faults: Faults,
    pub(crate) directory: tempfile::TempDir,
    opened: Opened,
}

/// How a store is opened.
#[derive(Clone, Copy)]
struct Opened {
    chains: Chains,
    patience: Duration,
}

impl Default for Opened {
    fn default() -> Self {
        Self { chains: Chains::Stacked { bytes_min: 0 }, patience: Duration::from_secs(60) }
    }
}

/// The worker that cargo builds with the tests.
pub(crate) fn workers() -> Workers {
    let deps = std::env::current_exe().unwrap();
    let worker = deps.parent().and_then(Path::parent).unwrap().join("examples/worker");
    assert!(worker.is_file(), "{} is missing: cargo build -p image --examples", worker.display());
    Workers::of_program(&worker)
}

impl Store {
    /// A store with a chain for each layer.
    pub(crate) fn new() -> Self {
        Self::opened(Opened::default())
    }

    /// A store that waits for a registry no longer than [`PATIENCE`].
    pub(crate) fn impatient() -> Self {
        Self::opened(Opened { patience: PATIENCE, ..Opened::default() })
    }

    /// A store with these chains.
    pub(crate) fn with_chains(chains: Chains) -> Self {
        Self::opened(Opened { chains, ..Opened::default() })
    }

    /// A store with a chain for each layer, one with a chain for several, and one with whole trees.
    pub(crate) fn of_each_kind() -> [Self; 3] {
        [Self::new(), Self::with_chains(Chains::Stacked { bytes_min: 1 << 20 }), Self::with_chains(Chains::Trees)]
    }

    fn opened(opened: Opened) -> Self {
        Self::at(tempfile::tempdir().unwrap(), opened)
    }

    fn at(directory: tempfile::TempDir, opened: Opened) -> Self {
        let faults = Faults::default();
        Self { images: open(directory.path(), &faults, opened), faults, directory, opened }
    }

    /// A store with this part (`root`: blobs, `fake`: layers) on a small disk; None if none can be mounted.
    pub(crate) fn on_small_disk(part: &str, megabytes: u32) -> Option<(Self, SmallDisk)> {
        let directory = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(&directory.path().join(part), megabytes)?;
        Some((Self::at(directory, Opened::default()), disk))
    }

    /// Simulates a restart.
    pub(crate) fn reopen(&mut self) {
        self.images = open(self.directory.path(), &self.faults, self.opened);
    }

    /// Simulates a restart with another server, whose chains are different.
    pub(crate) fn reopen_with(&mut self, chains: Chains) {
        self.opened.chains = chains;
        self.reopen();
    }

    /// The blobs, downloads and chains on disk.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let list = |name: &str| {
            std::fs::read_dir(self.directory.path().join(name)).unwrap().map(|entry| entry.unwrap().path())
        };
        ["root/blobs/sha256", "root/ingest", "root/import", "fake/chains", "fake/begun"]
            .iter()
            .flat_map(|name| list(name))
            .collect()
    }

    /// Waits until nothing is left: garbage is collected in the background.
    pub(crate) async fn wait_until_empty(&self) {
        self.wait_until(Vec::is_empty).await;
    }

    /// Waits until only what the next pull takes up is left.
    pub(crate) async fn wait_until_set_aside(&self) {
        let ingest = self.directory.path().join("root/ingest");
        self.wait_until(|left| left.iter().all(|path| path.starts_with(&ingest))).await;
    }

    /// Waits until nothing is left, as an administrator who prunes.
    pub(crate) async fn wait_until_reclaimed(&self) {
        self.wait_until(|left| {
            self.images.collect();
            left.is_empty()
        })
        .await;
    }

    async fn wait_until(&self, fits: impl Fn(&Vec<PathBuf>) -> bool) {
        for _ in 0..200 {
            if fits(&self.leftovers()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("left: {:?}", self.leftovers());
    }
}

fn open(directory: &Path, faults: &Faults, Opened { chains, patience }: Opened) -> Images {
    let rootfs = Arc::new(Fake::with_chains(&directory.join("fake"), chains, faults.clone()).unwrap());
    let settings = Settings {
        root: directory.join("root"),
        registry_config: Some(directory.join("certs.d")),
        registry_timeout: patience,
        workers: workers(),
        rootfs,
        platforms: vec!["linux/amd64".to_owned(), "linux/386".to_owned()],
    };
    Images::open(settings).unwrap()
}
