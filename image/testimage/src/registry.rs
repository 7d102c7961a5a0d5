//! A read-only registry on loopback, from memory: the part of the OCI distribution specification that a pull needs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{Blob, Image};

/// The header with a manifest's digest (OCI distribution specification, "Pulling manifests").
const DIGEST_HEADER: &str = "docker-content-digest";

/// The contents of the registry: one repository.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    repository: String,
    /// By their digest.
    blobs: BTreeMap<String, Blob>,
    /// Manifests and indexes, by their digest and by their tags.
    manifests: BTreeMap<String, Blob>,
}

impl Contents {
    /// A repository with nothing in it.
    #[must_use]
    pub fn new(repository: &str) -> Self {
        Self { repository: repository.to_owned(), ..Self::default() }
    }

    /// Adds an image, under its digest.
    pub fn add(&mut self, image: &Image) {
        self.blobs.extend(image.blobs.iter().map(|blob| (blob.digest.clone(), blob.clone())));
        self.manifests.insert(image.manifest.digest.clone(), image.manifest.clone());
    }

    /// Adds a manifest or an index under its digest and a tag.
    pub fn tag(&mut self, tag: &str, document: &Blob) {
        for reference in [tag, &document.digest] {
            self.manifests.insert(reference.to_owned(), document.clone());
        }
    }
}

/// Serves until the returned set is dropped, on a free port of loopback.
///
/// # Errors
/// No port is free.
pub async fn serve(contents: Contents) -> std::io::Result<(SocketAddr, JoinSet<()>)> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    Ok((listener.local_addr()?, serve_on(listener, contents)))
}

/// Serves on a socket until the returned set is dropped; in the context of a runtime.
#[must_use]
pub fn serve_on(listener: TcpListener, contents: Contents) -> JoinSet<()> {
    let contents = Arc::new(contents);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        // accept(2) fails if descriptors run out; the clients then report the failure.
        while let Ok((stream, _)) = listener.accept().await {
            let contents = contents.clone();
            connections.spawn(async move {
                let answer =
                    service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&contents, &request))));
                // A client may hang up.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    tasks
}

fn answer<B>(contents: &Contents, request: &Request<B>) -> Response<Full<Bytes>> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(path) = request.uri().path().strip_prefix("/v2/") else { return status(StatusCode::NOT_FOUND) };
    if path.is_empty() {
        return status(StatusCode::OK);
    }
    let within = path.strip_prefix(&contents.repository).and_then(|rest| rest.strip_prefix('/'));
    let Some(blob) = within.and_then(|rest| find(contents, rest)) else { return status(StatusCode::NOT_FOUND) };
    let size = blob.bytes.len();
    let range = request.headers().get(RANGE).filter(|_| !head).and_then(|value| part(value.to_str().ok()?, size));
    let bytes = blob.bytes.slice(range.clone().unwrap_or(0..size));
    let mut response = Response::new(Full::new(if head { Bytes::new() } else { bytes.clone() }));
    if let Some(Range { start, end }) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let said = format!("bytes {start}-{}/{size}", end - 1);
        response.headers_mut().insert(CONTENT_RANGE, said.parse().expect("numbers are a header value"));
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(blob.media_type));
    headers.insert(CONTENT_LENGTH, bytes.len().into());
    headers.insert(DIGEST_HEADER, HeaderValue::from_str(&blob.digest).expect("a digest is a header value"));
    response
}

/// The bytes of a Range header (`bytes=FIRST-` or `bytes=FIRST-LAST`). None: everything is the answer, which is allowed for whatever
/// else a client asks (RFC 9110, 14.2).
fn part(header: &str, size: usize) -> Option<Range<usize>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let start = first.parse().ok()?;
    let end = if last.is_empty() { size } else { last.parse::<usize>().ok()?.checked_add(1)?.min(size) };
    (start < end).then_some(start..end)
}

fn find<'a>(contents: &'a Contents, rest: &str) -> Option<&'a Blob> {
    match rest.split_once('/')? {
        ("manifests", reference) => contents.manifests.get(reference),
        ("blobs", digest) => contents.blobs.get(digest),
        _ => None,
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};

    use super::{Contents, answer, part};
    use crate::{Config, Image, Tree};

    #[test]
    fn a_registry_serves_what_it_holds_and_nothing_else() {
        let image = Image::new(&[Tree::default().file("a", "x").layer().unwrap()], &Config::default());
        let mut contents = Contents::new("a/b");
        contents.add(&image);
        contents.tag("1", &image.manifest);
        let blob = |repository: &str| format!("/v2/{repository}/blobs/{}", image.blobs[0].digest);
        let manifest = |reference: &str| format!("/v2/a/b/manifests/{reference}");
        for (method, path, wanted) in [
            ("GET", "/v2/".to_owned(), StatusCode::OK),
            ("GET", blob("a/b"), StatusCode::OK),
            ("HEAD", blob("a/b"), StatusCode::OK),
            ("GET", "/v2/a/b/blobs/sha256:01".to_owned(), StatusCode::NOT_FOUND),
            ("GET", blob("a"), StatusCode::NOT_FOUND),
            ("GET", manifest("1"), StatusCode::OK),
            ("GET", manifest(&image.manifest.digest), StatusCode::OK),
            ("GET", manifest("latest"), StatusCode::NOT_FOUND),
            ("GET", "/etc/passwd".to_owned(), StatusCode::NOT_FOUND),
            ("PUT", blob("a/b"), StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let request = Request::builder().method(method).uri(&path).body(()).unwrap();
            assert_eq!(answer(&contents, &request).status(), wanted, "{method} {path}");
        }
    }

    #[test]
    fn a_range_within_the_blob_is_honoured() {
        for (header, wanted) in [
            ("bytes=0-", Some(0..10)),
            ("bytes=4-", Some(4..10)),
            ("bytes=4-4", Some(4..5)),
            ("bytes=4-99", Some(4..10)),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-4", None),
            ("bytes=0-1,4-5", None),
            ("lines=0-", None),
        ] {
            assert_eq!(part(header, 10), wanted, "{header}");
        }
        let image = Image::new(&[Tree::default().file("a", "x").layer().unwrap()], &Config::default());
        let mut contents = Contents::new("a");
        contents.add(&image);
        let path = format!("/v2/a/blobs/{}", image.blobs[0].digest);
        let response = answer(&contents, &Request::get(path).header("Range", "bytes=1-2").body(()).unwrap());
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        let wanted = format!("bytes 1-2/{}", image.blobs[0].bytes.len());
        assert_eq!((response.status(), header("Content-Range")), (StatusCode::PARTIAL_CONTENT, wanted.as_str()));
        assert_eq!(header("Content-Length"), "2");
    }
}
