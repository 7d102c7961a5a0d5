//! The listener: hands out URLs and serves the clients that open them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::Runtime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::command::{self, Command, Context};
use super::connection::{Hangup, split};
use super::forward::{self, Forward};
use super::negotiate::{Protocol, Purpose, Refusal, negotiate, refusal};
use super::spdy::{Limits, Session};
use super::tls::Certificate;
use super::token::Tokens;
use super::tunnel::Tunnel;

/// Concurrent connections; further ones wait in the kernel's queue.
pub const CONNECTIONS: usize = 1024;
/// Streams of one connection: an exec has five, a port-forward two for each of its connections.
const STREAMS: u32 = 512;
/// Bytes of a request's head.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long a client may take over its handshake and its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Ports of one port-forward that its URL names: each takes two channels, which are one byte.
const PORTS: usize = 64;
/// When TCP keepalive begins, and its interval.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Concurrent connections that take enough memory to be worth giving back after the last of them.
const BUSY: usize = 16;
/// How long connections may take to end when the server stops. Their clients are told within milliseconds. One that does not close
/// then has stopped reading or is cut off: the kernel sends it the rest when this process is gone.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address; port 0: any. Beyond loopback it needs a certificate and must be one that clients can connect to.
    pub address: SocketAddr,
    /// Serves TLS with it, where given.
    pub certificate: Option<Certificate>,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// How long a client may take to open its streams.
    pub creation_timeout: Duration,
}

impl Default for Settings {
    /// On loopback, with the times of kubelet's server.
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate: None,
            idle_timeout: Duration::from_secs(4 * 3600),
            creation_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone)]
enum Pending {
    Command(Command),
    Forward(Forward),
}

impl Pending {
    /// The first element of the URL's path.
    fn path(&self) -> &'static str {
        match self {
            Self::Command(Command { args: Some(_), .. }) => "exec",
            Self::Command(Command { args: None, .. }) => "attach",
            Self::Forward(_) => "portforward",
        }
    }
}

struct Shared {
    settings: Settings,
    base: String,
    backend: Arc<dyn Runtime>,
    tokens: Tokens<Pending>,
    slots: Arc<Semaphore>,
    /// The most concurrent connections since memory was given back.
    peak: AtomicUsize,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

/// The streaming server. Clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

impl Server {
    /// Listens, and spawns the tasks that serve.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address beyond loopback without a certificate, or one that clients cannot use;
    /// [`Error::Certificate`]; [`Error::Listen`].
    pub async fn bind(settings: Settings, backend: Arc<dyn Runtime>) -> Result<Self, Error> {
        let ip = settings.address.ip();
        let invalid = |reason: &str| Error::Invalid { field: "streaming address", reason: format!("{ip}: {reason}") };
        if ip.is_unspecified() {
            return Err(invalid("clients are sent to this address, so it must be one of this machine's"));
        }
        if !ip.is_loopback() && settings.certificate.is_none() {
            return Err(invalid("beyond loopback a certificate is needed"));
        }
        let acceptor = settings.certificate.as_ref().map(Certificate::load).transpose()?.map(TlsAcceptor::from);
        let listen = |source| Error::Listen { address: settings.address, source };
        let listener = TcpListener::bind(settings.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let server = Self(Arc::new(Shared {
            settings,
            base: format!("{scheme}://{address}"),
            backend,
            tokens: Tokens::default(),
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            peak: AtomicUsize::new(0),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        server.0.tasks.spawn(server.clone().accept(listener, acceptor));
        Ok(server)
    }

    /// The URL for a command to execute or a container to attach to.
    ///
    /// # Errors
    /// [`Error::Invalid`] for streams that cannot be; [`Error::TooMany`].
    pub fn command_url(&self, command: Command) -> Result<String, Error> {
        if command.tty && command.stderr {
            return Err(Error::Invalid { field: "tty", reason: "tty and stderr cannot both be true".to_owned() });
        }
        if !command.stdin && !command.stdout && !command.stderr {
            let reason = "one of stdin, stdout, or stderr must be set".to_owned();
            return Err(Error::Invalid { field: "stdout", reason });
        }
        if command.args.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::Invalid { field: "cmd", reason: "no program".to_owned() });
        }
        self.url(Pending::Command(command))
    }

    /// The URL for the ports of a pod.
    ///
    /// # Errors
    /// [`Error::Invalid`] for too many ports; [`Error::TooMany`].
    pub fn forward_url(&self, forward: Forward) -> Result<String, Error> {
        if forward.ports.len() > PORTS {
            let reason = format!("{} ports, at most {PORTS} are possible", forward.ports.len());
            return Err(Error::Invalid { field: "port", reason });
        }
        self.url(Pending::Forward(forward))
    }

    fn url(&self, pending: Pending) -> Result<String, Error> {
        let path = pending.path();
        let token = self.0.tokens.insert(pending).ok_or(Error::TooMany)?;
        Ok(format!("{}/{path}/{token}", self.0.base))
    }

    /// Closes the listener and all connections; their commands are killed.
    pub async fn stop(&self) {
        self.0.stopped.cancel();
        self.0.tasks.close();
        let _ended = tokio::time::timeout(STOP_PATIENCE, self.0.tasks.wait()).await;
    }

    async fn accept(self, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
        loop {
            let slot = self.0.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.0.stopped.cancelled() => return,
            };
            match accepted {
                Ok((socket, _)) => {
                    self.0.peak.fetch_max(CONNECTIONS - self.0.slots.available_permits(), Ordering::Relaxed);
                    let connection = self.clone().connection(socket, acceptor.clone(), slot);
                    self.0.tasks.spawn(connection);
                }
                Err(error) => {
                    // Descriptors are exhausted: they come back when connections end.
                    tracing::warn!(%error, "cannot accept a streaming connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, socket: TcpStream, acceptor: Option<TlsAcceptor>, slot: OwnedSemaphorePermit) {
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let prepared = socket.set_nodelay(true);
        let prepared = prepared.and_then(|()| socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive));
        let hangup = match prepared.and_then(|()| Hangup::of(&socket)) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::debug!(%error, "a streaming connection was gone at once"),
        };
        let upgradable = Arc::new(std::sync::Mutex::new(Some((hangup, slot))));
        let Some(acceptor) = acceptor else { return self.requests(socket, upgradable).await };
        match tokio::time::timeout(REQUEST_TIMEOUT, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => self.requests(stream, upgradable).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// Answers the requests of a connection until one upgrades it.
    async fn requests<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, io: S, upgradable: Upgradable) {
        let stopped = self.0.stopped.clone();
        let service = service_fn(move |request| {
            let (server, upgradable) = (self.clone(), upgradable.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, &upgradable)) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .max_buf_size(HEAD_LIMIT)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        tokio::select! {
            served = connection => if let Err(error) = served {
                tracing::debug!(%error, "a streaming connection was not upgraded");
            },
            () = stopped.cancelled() => {}
        }
    }

    fn answer(&self, request: Request<Incoming>, upgradable: &Upgradable) -> Response<Full<Bytes>> {
        match self.upgrade(request, upgradable) {
            Ok(response) => response,
            Err(refusal) => {
                let mut response = Response::new(Full::from(format!("{}\n", refusal.text)));
                *response.status_mut() = refusal.status;
                response.headers_mut().extend(refusal.headers);
                response
            }
        }
    }

    fn upgrade(&self, request: Request<Incoming>, upgradable: &Upgradable) -> Result<Response<Full<Bytes>>, Refusal> {
        if request.method() != Method::GET && request.method() != Method::POST {
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"));
        }
        let pending = self
            .take_pending(request.uri().path())
            .ok_or_else(|| refusal(StatusCode::NOT_FOUND, "404 page not found"))?;
        let purpose = if let Pending::Forward(_) = pending { Purpose::Forward } else { Purpose::Command };
        let (protocol, headers) = negotiate(request.headers(), purpose)?;
        let upgradable = upgradable.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (hangup, slot) =
            upgradable.ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "this connection was upgraded already"))?;
        let context = Context {
            backend: self.0.backend.clone(),
            hangup,
            stopped: self.0.stopped.clone(),
            creation_timeout: self.0.settings.creation_timeout,
            idle_timeout: self.0.settings.idle_timeout,
        };
        let server = self.clone();
        self.0.tasks.spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => serve(split(upgraded), pending, protocol, context).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
            drop(slot);
            server.release_memory();
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Gives memory back to the system after the last of many connections.
    fn release_memory(&self) {
        // One slot is taken by the listener, for the connection that it waits for.
        let over = self.0.slots.available_permits() + 1 >= CONNECTIONS;
        if over && self.0.peak.load(Ordering::Relaxed) >= BUSY {
            self.0.peak.store(0, Ordering::Relaxed);
            tokio::task::spawn_blocking(host::memory::give_back);
        }
    }

    /// Consumes the request that belongs to a URL's path.
    fn take_pending(&self, path: &str) -> Option<Pending> {
        let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
        self.0.tokens.take(token).filter(|pending| pending.path() == kind)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("base", &self.0.base).finish_non_exhaustive()
    }
}

/// What the upgrade of a connection takes over; None once it was upgraded.
type Upgradable = Arc<std::sync::Mutex<Option<(Hangup, OwnedSemaphorePermit)>>>;

async fn serve(
    connection: (super::wire::BoxRead, super::wire::BoxWrite),
    pending: Pending,
    protocol: Protocol,
    context: Context,
) {
    let limits = Limits { streams: STREAMS, idle: context.idle_timeout };
    let served = match (pending, protocol) {
        (Pending::Command(command), Protocol::Spdy { format, resize }) => {
            let session = Session::start(connection.0, connection.1, limits);
            command::serve_spdy(session, command, (format, resize), &context).await
        }
        (Pending::Command(command), Protocol::WebSocket { format, codec }) => {
            command::serve_websocket(connection, command, (format, codec), &context).await
        }
        (Pending::Forward(forward), Protocol::ForwardSpdy) => {
            let session = Session::start(connection.0, connection.1, limits);
            forward::serve_spdy(session, forward, &context).await
        }
        (Pending::Forward(forward), Protocol::ForwardTunnel) => {
            let (tunnel, session) = Tunnel::start(connection, limits);
            let served = forward::serve_spdy(session, forward, &context).await;
            tunnel.close().await;
            served
        }
        (Pending::Forward(forward), Protocol::ForwardWebSocket(codec)) => {
            forward::serve_websocket(connection, forward, codec, &context).await
        }
        _ => unreachable!("protocols are negotiated for the request's purpose"),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming connection ended early");
    }
}
