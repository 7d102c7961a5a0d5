//! The client of one host: requests with its headers, credentials and TLS settings, redirects, and errors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::asked::{Asked, Purpose};
use super::clients::Clients;
use super::{Failure, patience, trouble};
use crate::document::{MANIFEST_BYTES_MAX, MANIFEST_TYPES};
use crate::hosts::Endpoint;
use crate::{Credentials, Digest, Error, Reference, Target, json};

/// The reason of a time-out.
const SILENT: &str = "it said nothing for";
/// Redirects of one request: content delivery networks use one or two.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an error response that are read.
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// Characters of an error response that an error repeats.
const REASON_LENGTH: usize = 300;
/// How many times the limit of one step a manifest may take, with its redirects and tokens.
const STEPS: u32 = 3;
/// Characters of a page that came instead of a document.
pub(super) const PAGE_LENGTH: usize = 80;

/// One repository at one host.
pub(super) struct Registry {
    pub(super) endpoint: Endpoint,
    http: Clients,
    /// The clients for other hosts, without client certificates: redirects and token servers.
    elsewhere: Clients,
    pub(super) credentials: Credentials,
    pub(super) repository: String,
    /// How long the host may stay silent, and a document may take.
    pub(super) timeout: Duration,
    reference: String,
    authorization: Mutex<Option<HeaderValue>>,
    /// It has answered a request of this pull.
    heard: AtomicBool,
    /// See [`Registry::avoid`].
    avoided: AtomicBool,
}

/// A GET request.
struct Request<'a> {
    url: Url,
    accept: Option<&'a str>,
    /// From where to where; to the end without the second.
    range: (u64, Option<u64>),
    /// How long the host may stay silent.
    patience: Duration,
    purpose: Purpose,
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
        let http = Clients::new(&endpoint)?;
        let elsewhere = if endpoint.client.is_empty() {
            http.clone()
        } else {
            Clients::new(&Endpoint { client: Vec::new(), ..endpoint.clone() })?
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
            avoided: AtomicBool::new(false),
        })
    }

    /// Whether it is asked last from now on.
    pub(super) fn is_avoided(&self) -> bool {
        self.avoided.load(Ordering::Relaxed)
    }

    /// It answers, and this pull gets nothing from it: its token server is down, or it asks for a long pause.
    pub(super) fn avoid(&self) {
        self.avoided.store(true, Ordering::Relaxed);
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
        // Each of its steps has a limit of its own, which names the machine at fault.
        let (time, operation) = (self.timeout * STEPS, format!("cannot get the manifest of {}", self.reference));
        let limit = Limit { time, operation: &operation, reason: "it took longer than", is_down: false };
        limit.on(self.manifest_in_steps(target, has_next)).await?
    }

    async fn manifest_in_steps(&self, target: &Target, has_next: bool) -> Result<Vec<u8>, Failure> {
        let name = match target {
            Target::Tag(tag) => tag.clone(),
            Target::Digest(digest) => digest.to_string(),
        };
        let accept = MANIFEST_TYPES.join(", ");
        let (patience, what) = (self.patience(has_next), self.reference.clone());
        let (url, purpose) = (self.url("manifests", &name), Purpose::Content);
        let request = Request { url, accept: Some(&accept), range: (0, None), patience, purpose, what };
        let response = self.send(&request).await?;
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (announced, kind) = (header("docker-content-digest"), header(CONTENT_TYPE.as_str()));
        let asked = self.asked(purpose, response.url());
        let operation = format!("cannot get the manifest of {} from {}", self.reference, asked.who());
        let bytes = self.document(response, MANIFEST_BYTES_MAX, &operation).await?;
        self.refuse_page(&bytes, &kind, &asked)?;
        let expected = if let Target::Digest(digest) = target { Some(digest.clone()) } else { announced.parse().ok() };
        // A digest of an algorithm that is not known says nothing.
        let Some(expected) = expected else { return Ok(bytes) };
        let digest = expected.algorithm().digest(&bytes);
        if digest == expected {
            return Ok(bytes);
        }
        let reason = asked.does(&format!("sent contents with the digest {digest}, expected {expected}"));
        Err(Error::invalid(format!("manifest of {}", self.reference), reason).into())
    }

    /// Refuses what is no JSON object: a login page, the page of a proxy, the address of a web site.
    fn refuse_page(&self, bytes: &[u8], kind: &str, asked: &Asked) -> Result<(), Error> {
        if bytes.trim_ascii_start().first().is_none_or(|first| *first == b'{') {
            return Ok(());
        }
        let (kind, text) = (line(kind.as_bytes(), PAGE_LENGTH), line(bytes, PAGE_LENGTH));
        let reason =
            asked.does(&format!("answers something else, of the content type {kind:?}, which begins {text:?}"));
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
        let (url, purpose) = (self.url("blobs", digest.as_str()), Purpose::Content);
        let request = Request { url, accept: None, range, patience, purpose, what };
        let response = self.send(&request).await?;
        self.is_range(&response, &request).map(|ranged| (response, ranged))
    }

    /// Gets a range of a layer from an address in its descriptor: without credentials.
    pub(super) async fn foreign(&self, url: &Url, range: (u64, Option<u64>)) -> Result<(Response, bool), Failure> {
        let what = format!("a layer of {}", self.reference);
        if !matches!(url.scheme(), "http" | "https") {
            let what = format!("{what} from {}", url.host_str().unwrap_or_default());
            return Err(
                Error::invalid(what, format!("{:?} is neither an http nor an https address", url.scheme())).into()
            );
        }
        let (url, patience, purpose) = (url.clone(), self.timeout, Purpose::Layer);
        let request = Request { url, accept: None, range, patience, purpose, what };
        let (response, _) = self.follow(&request, None).await?;
        let response = self.accepted(response, &request).await?;
        self.is_range(&response, &request).map(|ranged| (response, ranged))
    }

    /// Whether a response is the range of its request. Refuses another one than was asked for.
    fn is_range(&self, response: &Response, request: &Request<'_>) -> Result<bool, Failure> {
        let from = request.range.0;
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
        let reason = format!("it answers the range {said:?} to a request for bytes from {from} on");
        Err(Error::invalid(self.asked(request.purpose, response.url()).who(), reason).into())
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

    /// Whether an address is of the registry's own host.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.base.origin()
    }

    /// The client for an address. Only this host gets the client certificates.
    pub(super) fn client_for(&self, url: &Url) -> &Client {
        if self.is_own(url) { self.http.of(url) } else { self.elsewhere.of(url) }
    }

    /// The host of an address, for errors.
    pub(super) fn asked(&self, purpose: Purpose, url: &Url) -> Asked {
        Asked::new(purpose, url, &self.endpoint.base)
    }

    /// Sends a request; after a 401 from the host itself, authenticates and sends it once more.
    async fn send(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let used = self.authorization.lock().await.clone();
        let (response, own) = self.follow(request, used.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(response, request).await;
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
        self.accepted(response, request).await
    }

    /// Sends a request and follows its redirects; also returns whether no other host was involved. Only this host gets its headers
    /// and the credentials, and not if another host redirects back to it.
    async fn follow(
        &self,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), Failure> {
        let (mut url, mut own) = (request.url.clone(), true);
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            own &= self.is_own(&url);
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
            let sent = self.client_for(&url).get(url.clone()).headers(headers);
            let response = self.answer(sent, &self.asked(request.purpose, &url), request.patience).await?;
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

    async fn accepted(&self, response: Response, request: &Request<'_>) -> Result<Response, Failure> {
        if response.status().is_success() {
            return Ok(response);
        }
        let asked = self.asked(request.purpose, response.url());
        Err(self.refused(response, &request.what, &asked).await)
    }

    /// Maps an error response of a host to a request for `what`.
    pub(super) async fn refused(&self, response: Response, what: &str, asked: &Asked) -> Failure {
        let status = response.status();
        let wait = patience::asked(response.headers(), SystemTime::now());
        let said = self.document(response, REFUSAL_BYTES_MAX, "").await.unwrap_or_default();
        let reason = format!("{status}: {}", self.credentials.redact(&reason(&said)));
        let mut reason = reason.trim_end_matches([':', ' ']).to_owned();
        if let Some(wait) = wait.filter(|wait| patience::is_too_long(*wait)) {
            reason.push_str(&format!("; it asks to wait {} s", wait.as_secs()));
        }
        match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if asked.is_proxied() => {
                Error::unavailable(asked.unreached())(reason).into()
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if asked.is_registry() => self.denied(&reason).into(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.denied(&asked.does(&format!("answers {reason}"))).into()
            }
            StatusCode::NOT_FOUND if !asked.is_for_token() => Error::not_found(asked.lacks(what)).into(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Failure::Transient(self.unavailable(asked, reason), wait)
            }
            status if status.is_server_error() => Failure::Transient(self.unavailable(asked, reason), wait),
            _ if asked.is_for_token() => Error::failed(asked.unreached())(reason).into(),
            _ => Error::failed(asked.does(&format!("refuses {}", self.reference)))(reason).into(),
        }
    }

    fn unavailable(&self, asked: &Asked, reason: String) -> Error {
        let operation = if asked.is_for_token() {
            asked.unreached()
        } else {
            asked.does(&format!("does not serve {} now", self.reference))
        };
        Error::unavailable(operation)(reason)
    }

    /// Sends a request to a host and waits for the head of the response.
    pub(super) async fn answer(
        &self,
        request: RequestBuilder,
        asked: &Asked,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let operation = asked.unreached();
        let limit = Limit { time: patience, operation: &operation, reason: SILENT, is_down: asked.is_registry() };
        let sent = limit.on(request.send()).await?;
        // Behind a proxy nobody can tell which of the two cannot be reached.
        let is_down = asked.is_registry() && !asked.is_proxied();
        sent.map_err(|error| trouble::connection(&operation, error, is_down))
    }

    /// The next bytes of a response; None: it has ended.
    pub(super) async fn chunk(&self, response: &mut Response, operation: &str) -> Result<Option<Bytes>, Failure> {
        let is_down = self.is_own(response.url());
        let limit = Limit { time: self.timeout, operation, reason: SILENT, is_down };
        let chunk = limit.on(response.chunk()).await?;
        chunk.map_err(|error| trouble::connection(operation, error, is_down))
    }

    /// Reads a body, up to a limit of bytes and of time.
    pub(super) async fn document(&self, response: Response, limit: u64, operation: &str) -> Result<Vec<u8>, Failure> {
        let is_down = self.is_own(response.url());
        let slow = Limit { time: self.timeout, operation, reason: "it took longer than", is_down };
        slow.on(self.body(response, limit, operation)).await?
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

/// The time that some work may take, and the error if it takes longer.
struct Limit<'a> {
    time: Duration,
    operation: &'a str,
    reason: &'a str,
    /// The registry's own host is to blame.
    is_down: bool,
}

impl Limit<'_> {
    async fn on<F: Future>(self, work: F) -> Result<F::Output, Failure> {
        let Self { time, operation, reason, is_down } = self;
        tokio::time::timeout(time, work).await.map_err(|_| {
            let error = Error::unavailable(operation)(format!("{reason} {} s", time.as_secs_f32()));
            Failure::Unreachable { error, passing: true, is_down }
        })
    }
}
