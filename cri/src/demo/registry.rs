//! A registry on loopback for `cellblock demo`: the part of the OCI distribution specification that a pull needs, from
//! memory. It holds what it was given and takes nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The header in which a registry says what a manifest's digest is (OCI distribution specification, "Pulling manifests").
const DIGEST_HEADER: &str = "docker-content-digest";

/// What the registry serves.
#[derive(Debug, Default)]
pub struct Contents {
    /// Blobs by their digest.
    pub blobs: BTreeMap<String, Bytes>,
    /// Manifests by their digest and by their tag: media type and bytes.
    pub manifests: BTreeMap<String, Manifest>,
    /// The repository's name.
    pub repository: String,
}

/// A manifest as it is served.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its media type.
    pub media_type: &'static str,
    /// Its digest.
    pub digest: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Serves until the returned set is dropped; the address is on loopback, its port any that is free.
///
/// # Errors
/// No port can be listened on.
pub async fn serve(contents: Contents) -> std::io::Result<(SocketAddr, JoinSet<()>)> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    let contents = Arc::new(contents);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        // A listener fails for want of descriptors; the demo's client then says what it could not fetch.
        while let Ok((stream, _)) = listener.accept().await {
            let contents = contents.clone();
            connections.spawn(async move {
                let answer =
                    service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&contents, &request))));
                // A client that hangs up is no concern of a registry's.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    Ok((address, tasks))
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
    let found = within.and_then(|rest| find(contents, rest));
    let Some((media_type, digest, bytes)) = found else { return status(StatusCode::NOT_FOUND) };
    let length = bytes.len();
    let mut response = Response::new(Full::new(if head { Bytes::new() } else { bytes }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(DIGEST_HEADER, HeaderValue::from_str(&digest).expect("a digest is a header value"));
    response
}

fn find(contents: &Contents, rest: &str) -> Option<(&'static str, String, Bytes)> {
    if let Some(reference) = rest.strip_prefix("manifests/") {
        let manifest = contents.manifests.get(reference)?;
        return Some((manifest.media_type, manifest.digest.clone(), manifest.bytes.clone()));
    }
    let digest = rest.strip_prefix("blobs/")?;
    Some(("application/octet-stream", digest.to_owned(), contents.blobs.get(digest)?.clone()))
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, StatusCode};

    use super::{Contents, answer};

    #[test]
    fn a_registry_serves_what_it_holds_and_nothing_else() {
        let mut contents = Contents { repository: "a/b".to_owned(), ..Contents::default() };
        contents.blobs.insert("sha256:00".to_owned(), Bytes::from_static(b"blob"));
        for (method, path, wanted) in [
            ("GET", "/v2/", StatusCode::OK),
            ("GET", "/v2/a/b/blobs/sha256:00", StatusCode::OK),
            ("HEAD", "/v2/a/b/blobs/sha256:00", StatusCode::OK),
            ("GET", "/v2/a/b/blobs/sha256:01", StatusCode::NOT_FOUND),
            ("GET", "/v2/a/blobs/sha256:00", StatusCode::NOT_FOUND),
            ("GET", "/v2/a/b/manifests/latest", StatusCode::NOT_FOUND),
            ("GET", "/etc/passwd", StatusCode::NOT_FOUND),
            ("PUT", "/v2/a/b/blobs/sha256:00", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            assert_eq!(answer(&contents, &request).status(), wanted, "{method} {path}");
        }
    }
}
