//! The client of one host: requests with its headers, credentials and TLS settings, redirects, and errors.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Failure, tls, trouble};
use crate::document::{MANIFEST_BYTES_MAX, MANIFEST_TYPES};
use crate::hosts::{DIAL_TIMEOUT, Endpoint};
use crate::{Credentials, Digest, Error, Reference, Target, json};

/// The reason of a time-out.
const SILENT: &str = "it said nothing for";
/// Redirects of one request: content delivery networks use one or two.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an error response that are read.
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// Characters of an error response that an error repeats.
const REASON_LENGTH: usize = 300;
/// Characters of a page that came instead of a document.
pub(super) const PAGE_LENGTH: usize = 80;
/// The limit of Retry-After.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// The client for hosts without TLS settings, shared so that connections are reused.
static PLAIN: LazyLock<Result<Client, String>> = LazyLock::new(|| build(builder()));
/// The same for loopback, which no proxy reaches.
static LOOPBACK: LazyLock<Result<Client, String>> = LazyLock::new(|| build(builder().no_proxy()));

/// One repository at one host.
pub(super) struct Registry {
    pub(super) endpoint: Endpoint,
    http: Client,
    /// The client for other hosts, without client certificates: redirects and token servers.
    elsewhere: Client,
    pub(super) credentials: Credentials,
    pub(super) repository: String,
    /// How long the host may stay silent, and a document may take.
    pub(super) timeout: Duration,
    reference: String,
    authorization: Mutex<Option<HeaderValue>>,
    /// It has answered a request of this pull.
    heard: AtomicBool,
}

/// A GET request.
struct Request<'a> {
    url: Url,
    accept: Option<&'a str>,
    /// From where to where; to the end without the second.
    range: (u64, Option<u64>),
    /// How long the host may stay silent.
    patience: Duration,
    /// What it asks for, for an error.
    what: String,
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalEntry>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Registry {
    /// Prepares the clients. Reads certificate files: blocking.
    pub(super) fn new(
        endpoint: Endpoint,
        reference: &Reference,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let http = client(&endpoint)?;
        let elsewhere = if endpoint.client.is_empty() {
            http.clone()
        } else {
            client(&Endpoint { client: Vec::new(), ..endpoint.clone() })?
        };
        let is_meant = is_for(credentials, &endpoint, reference.domain());
        let credentials = if is_meant { credentials.clone() } else { Credentials::default() };
        Ok(Self {
            endpoint,
            http,
            elsewhere,
            credentials,
            repository: reference.path().to_owned(),
            timeout,
            reference: reference.to_string(),
            authorization: Mutex::new(None),
            heard: AtomicBool::new(false),
        })
    }

    /// The host, for errors.
    pub(super) fn name(&self) -> String {
        self.endpoint.authority()
    }

    /// How long it may stay silent. Where there is another host, one that has not answered yet gets no more than its dial time-out.
    fn patience(&self, has_next: bool) -> Duration {
        let hasty = has_next && !self.heard.load(Ordering::Relaxed);
        if hasty { self.timeout.min(self.endpoint.dial_timeout) } else { self.timeout }
    }

    /// Gets a manifest or an index, and verifies the digest of the reference, or else of the response's header. `has_next`: there is
    /// another host.
    pub(super) async fn manifest(&self, target: &Target, has_next: bool) -> Result<Vec<u8>, Failure> {
        let name = match target {
            Target::Tag(tag) => tag.clone(),
            Target::Digest(digest) => digest.to_string(),
        };
        let operation = format!("cannot get the manifest of {} from {}", self.reference, self.name());
        let accept = MANIFEST_TYPES.join(", ");
        let (patience, what) = (self.patience(has_next), self.reference.clone());
        let request =
            Request { url: self.url("manifests", &name), accept: Some(&accept), range: (0, None), patience, what };
        let document = async {
            let response = self.send(&request).await?;
            let header = |name: &str| {
                response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            let (announced, kind) = (header("docker-content-digest"), header(CONTENT_TYPE.as_str()));
            Ok::<_, Failure>((self.body(response, MANIFEST_BYTES_MAX, &operation).await?, announced, kind))
        };
        let (bytes, announced, kind) = within(self.timeout, &operation, "it took longer than", document).await??;
        self.refuse_page(&bytes, &kind)?;
        let expected = if let Target::Digest(digest) = target { Some(digest.clone()) } else { announced.parse().ok() };
        // A digest of an algorithm that is not known says nothing.
        let Some(expected) = expected else { return Ok(bytes) };
        let digest = expected.algorithm().digest(&bytes);
        if digest == expected {
            return Ok(bytes);
        }
        let reason = format!("{} sent contents with the digest {digest}, expected {expected}", self.name());
        Err(Error::invalid(format!("manifest of {}", self.reference), reason).into())
    }

    /// Refuses what is no JSON object: a login page, the page of a proxy, the address of a web site.
    fn refuse_page(&self, bytes: &[u8], kind: &str) -> Result<(), Error> {
        if bytes.trim_ascii_start().first().is_none_or(|first| *first == b'{') {
            return Ok(());
        }
        let (kind, text) = (line(kind.as_bytes(), PAGE_LENGTH), line(bytes, PAGE_LENGTH));
        let reason =
            format!("{} answers something else, of the content type {kind:?}, which begins {text:?}", self.name());
        Err(Error::invalid(format!("manifest of {}", self.reference), reason))
    }

    /// Gets a range of a blob: the response, and whether it is that range or everything. `has_next`: there is another host.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        range: (u64, Option<u64>),
        has_next: bool,
    ) -> Result<(Response, bool), Failure> {
        let (patience, what) = (self.patience(has_next), format!("blob {digest} of {}", self.reference));
        let request = Request { url: self.url("blobs", digest.as_str()), accept: None, range, patience, what };
        let response = self.send(&request).await?;
        self.is_range(&response, range.0).map(|ranged| (response, ranged))
    }

    /// Gets a range of a layer from an address in its descriptor: without credentials.
    pub(super) async fn foreign(&self, url: &Url, range: (u64, Option<u64>)) -> Result<(Response, bool), Failure> {
        let what = format!("a layer of {} from {}", self.reference, url.host_str().unwrap_or_default());
        if !matches!(url.scheme(), "http" | "https") {
            return Err(
                Error::invalid(what, format!("{:?} is neither an http nor an https address", url.scheme())).into()
            );
        }
        let request = Request { url: url.clone(), accept: None, range, patience: self.timeout, what };
        let (response, _) = self.follow(&request, None).await?;
        let response = self.accepted(response, &request.what).await?;
        self.is_range(&response, range.0).map(|ranged| (response, ranged))
    }

    /// Whether a response is the range from an offset on. Refuses another one than was asked for.
    fn is_range(&self, response: &Response, from: u64) -> Result<bool, Failure> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(false);
        }
        let said = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        // Some servers leave the header out.
        let start = said.and_then(|said| said.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse::<u64>().ok());
        if start.is_none_or(|start| start == from) {
            return Ok(true);
        }
        let said = line(said.unwrap_or_default().as_bytes(), PAGE_LENGTH);
        Err(self.invalid(&format!("it answers the range {said:?} to a request for bytes from {from} on")).into())
    }

    fn url(&self, kind: &str, name: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        let path = format!("{}/{}/{kind}/{name}", url.path().trim_end_matches('/'), self.repository);
        url.set_path(&path);
        if let Some(namespace) = &self.endpoint.mirror_of {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// The client for an address. Only this host gets the client certificates.
    pub(super) fn client_for(&self, url: &Url) -> &Client {
        if url.origin() == self.endpoint.base.origin() { &self.http } else { &self.elsewhere }
    }

    /// Sends a request; after a 401 from the host itself, authenticates and sends it once more.
    async fn send(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let used = self.authorization.lock().await.clone();
        let (response, own) = self.follow(request, used.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(response, &request.what).await;
        }
        if !own {
            let host = response.url().host_str().unwrap_or_default();
            let reason = format!("it redirects to {host}, which asks for credentials: this registry's are not for it");
            return Err(self.denied(&reason).into());
        }
        let authorization = {
            let mut current = self.authorization.lock().await;
            // Another request may have authenticated meanwhile.
            if *current == used {
                *current = Some(self.authorize(response.headers()).await?);
            }
            current.clone()
        };
        let (response, _) = self.follow(request, authorization.as_ref()).await?;
        self.accepted(response, &request.what).await
    }

    /// Sends a request and follows its redirects; also returns whether no other host was involved. Only this host gets its headers
    /// and the credentials, and not if another host redirects back to it.
    async fn follow(
        &self,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), Failure> {
        let operation = format!("cannot reach registry {}", self.name());
        let (mut url, mut own) = (request.url.clone(), true);
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            own &= url.origin() == self.endpoint.base.origin();
            if own {
                headers.extend(self.endpoint.headers.clone());
                headers.extend(authorization.map(|value| (AUTHORIZATION, value.clone())));
            }
            headers.extend(request.accept.and_then(|accept| Some((ACCEPT, HeaderValue::from_str(accept).ok()?))));
            let range = match request.range {
                (0, None) => None,
                (from, None) => Some(format!("bytes={from}-")),
                (from, Some(to)) => Some(format!("bytes={from}-{}", to - 1)),
            };
            headers.extend(range.and_then(|range| Some((RANGE, HeaderValue::from_str(&range).ok()?))));
            let response = self
                .answer(self.client_for(&url).get(url.clone()).headers(headers), &operation, request.patience)
                .await?;
            self.heard.fetch_or(own, Ordering::Relaxed);
            if !response.status().is_redirection() {
                return Ok((response, own));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next
                .filter(|next| may_follow(&url, next))
                .ok_or_else(|| self.invalid("it redirects to nowhere, or away from https"))?;
        }
        Err(self.invalid("it redirects without end").into())
    }

    fn invalid(&self, reason: &str) -> Error {
        Error::invalid(format!("registry {}", self.name()), reason)
    }

    pub(super) fn denied(&self, reason: &str) -> Error {
        Error::Denied { registry: self.name(), reference: self.reference.clone(), reason: reason.to_owned() }
    }

    async fn accepted(&self, response: Response, what: &str) -> Result<Response, Failure> {
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response, what).await) }
    }

    /// Maps an error response to a request for `what`.
    pub(super) async fn refused(&self, response: Response, what: &str) -> Failure {
        let status = response.status();
        let wait = retry_after(response.headers());
        let said = self.body(response, REFUSAL_BYTES_MAX, "").await.unwrap_or_default();
        let reason = format!("{status}: {}", self.credentials.redact(&reason(&said)));
        let reason = reason.trim_end_matches([':', ' ']).to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(&reason).into(),
            StatusCode::NOT_FOUND => Error::not_found(format!("{what} in registry {}", self.name())).into(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Failure::Transient(self.unavailable(reason), wait)
            }
            status if status.is_server_error() => Failure::Transient(self.unavailable(reason), wait),
            _ => Error::failed(format!("registry {} refuses {}", self.name(), self.reference))(reason).into(),
        }
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::unavailable(format!("registry {} does not serve {} now", self.name(), self.reference))(reason)
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn answer(
        &self,
        request: RequestBuilder,
        operation: &str,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let sent = within(patience, operation, SILENT, request.send()).await?;
        sent.map_err(|error| trouble::connection(operation, error))
    }

    /// The next bytes of a response; None: it has ended.
    pub(super) async fn chunk(&self, response: &mut Response, operation: &str) -> Result<Option<Bytes>, Failure> {
        let chunk = within(self.timeout, operation, SILENT, response.chunk()).await?;
        chunk.map_err(|error| trouble::connection(operation, error))
    }

    /// Reads a body, up to a limit.
    pub(super) async fn body(&self, mut response: Response, limit: u64, operation: &str) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response, operation).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(Error::invalid(operation, format!("the answer is longer than {limit} bytes")).into());
            }
        }
        Ok(bytes)
    }
}

/// Whether this host may get the credentials: they name it, or it is the registry `domain` and they name that or no host.
fn is_for(credentials: &Credentials, endpoint: &Endpoint, domain: &str) -> bool {
    let address = credentials.server_address.trim();
    if address.is_empty() {
        return endpoint.own;
    }
    let address = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let hub = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    Url::parse(&address).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default().to_owned();
        let named = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let same = |other: &str| named == other || (hub(&named) && hub(other));
        same(&endpoint.authority()) || (endpoint.own && same(domain))
    })
}

/// Whether a redirect may be followed: to HTTP or HTTPS, and from HTTPS to HTTPS only.
fn may_follow(from: &Url, to: &Url) -> bool {
    match to.scheme() {
        "https" => true,
        "http" => from.scheme() == "http",
        _ => false,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The text of an error response, as one line of limited length.
fn reason(body: &[u8]) -> String {
    let text = match json::from_slice::<Refusal>(body) {
        Ok(refusal) if !refusal.errors.is_empty() => {
            let entries =
                refusal.errors.iter().map(|entry| format!("{} {}", entry.code, entry.message).trim().to_owned());
            entries.collect::<Vec<_>>().join(", ")
        }
        _ => String::from_utf8_lossy(body).trim().to_owned(),
    };
    line(text.as_bytes(), REASON_LENGTH)
}

/// A text of a stranger as one line of limited length.
pub(super) fn line(text: &[u8], length: usize) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(length).collect()
}

/// Limits the time of some work.
async fn within<F: Future>(timeout: Duration, operation: &str, reason: &str, work: F) -> Result<F::Output, Failure> {
    tokio::time::timeout(timeout, work).await.map_err(|_| {
        let reason = format!("{reason} {} s", timeout.as_secs_f32());
        Failure::Unreachable { error: Error::unavailable(operation)(reason), passing: true }
    })
}

fn builder() -> ClientBuilder {
    // Fails if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(DIAL_TIMEOUT)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("cellblock/", env!("CARGO_PKG_VERSION")))
}

fn build(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|error| host::chain(&error))
}

/// The client for a host.
fn client(endpoint: &Endpoint) -> Result<Client, Error> {
    let operation = || format!("cannot prepare to ask registry {}", endpoint.authority());
    let loopback = endpoint.base.host_str().is_some_and(is_loopback);
    let tls = !(endpoint.ca.is_empty() && endpoint.client.is_empty()) || endpoint.skip_verify;
    if !tls && endpoint.dial_timeout == DIAL_TIMEOUT {
        let shared = if loopback { &LOOPBACK } else { &PLAIN };
        return match (&**shared, endpoint.base.scheme()) {
            (Ok(client), _) => Ok(client.clone()),
            // A system without certificate authorities can still use hosts without TLS.
            (Err(_), "http") => builder().no_proxy().tls_certs_only([]).build().map_err(Error::failed(operation())),
            (Err(error), _) => Err(Error::failed(operation())(error.clone())),
        };
    }
    let builder = || {
        let builder = builder().connect_timeout(endpoint.dial_timeout);
        if loopback { builder.no_proxy() } else { builder }
    };
    let built =
        if tls { builder().tls_backend_preconfigured(tls::config(endpoint)?).build() } else { builder().build() };
    match (built, endpoint.base.scheme()) {
        // As above.
        (Err(_), "http") if !tls => builder().tls_certs_only([]).build().map_err(Error::failed(operation())),
        (built, _) => built.map_err(Error::failed(operation())),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
