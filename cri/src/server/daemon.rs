//! The server: one process per root directory, state directory and prefix, a unix socket for root alone, recovery before the first
//! answer, and a stop that leaves every container running.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host::Failures;
use proto::admin::admin_server::AdminServer;
use proto::v1::image_service_server::ImageServiceServer;
use proto::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::error::Error;
use crate::lifecycle::{nameserver, needs, network, reconcile, recover, spares, written};
use crate::rpc::MESSAGE_LIMIT;
use crate::server::admin::{self, AdminService};
use crate::server::connections;
use crate::server::deliver::{DeliverLayer, Gate};
use crate::server::locks::Locks;
use crate::server::service::Service;
use crate::state::node::{Backends, Node, Opening};

/// Concurrent calls on one connection: kubelet has some dozens, and each may block a thread.
const CALLS_PER_CONNECTION: usize = 256;
/// How long running calls may take once the server is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long clients may take to read their answers then. A client that says nothing would keep its connection for ever: HTTP/2's
/// orderly end waits for it (RFC 9113, 6.8), and so does the handshake. Clients that live take milliseconds.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another server has this directory or prefix.
    #[error("another cellblock uses the {what}: it holds {} locked", file.display())]
    Taken {
        /// The directory or prefix.
        what: String,
        /// The lock.
        file: PathBuf,
    },
    /// The host fails.
    #[error("cannot {operation}")]
    Host {
        /// The operation.
        operation: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The records or the kernel fail.
    #[error(transparent)]
    Node(#[from] crate::error::Error),
    /// gRPC fails.
    #[error("cannot serve")]
    Transport(#[from] tonic::transport::Error),
}

/// A server that holds its locks and its sockets and has not answered any call yet.
pub struct Server {
    node: Arc<Node>,
    loaded: crate::state::record::Loaded,
    listener: UnixListener,
    socket: PathBuf,
    admin: UnixListener,
    locks: Locks,
}

impl Server {
    /// Reads the records and opens the sockets: clients can connect now, and wait. Blocking.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn open(locks: Locks, socket: &Path, backends: Backends, opening: Opening) -> Result<Self, ServeError> {
        let (node, loaded) = Node::open(backends, opening)?;
        let listener = listen(socket)?;
        let admin = listen(&admin::socket(&node.config.state))?;
        Ok(Self { node, loaded, listener, socket: socket.to_owned(), admin, locks })
    }

    /// The state that it shares with its calls.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Serves until `stop` is ready. Calls answer UNAVAILABLE until recovery is done.
    ///
    /// # Errors
    /// The kernel's inventory cannot be read, or the socket fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let Self { node, loaded, listener, socket, admin, locks } = self;
        let gate = Gate::default();
        let (stopping, stopped) = tokio::sync::watch::channel(false);
        let calls = TaskTracker::new();
        let layer = DeliverLayer { gate: gate.clone(), calls: calls.clone() };
        let serving = serve(node.clone(), (listener, admin), layer, stopped);
        let mut serving = tokio::spawn(serving);
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            recovered = node.block(move |node| recover::run(node, &loaded)) => recovered?,
            () = &mut stop => {
                warn!("stopped before recovery has ended: the next start begins it again");
                node.close_records();
                return Ok(());
            }
        }
        node.images.keep_roots_ahead(node.config.spares as usize);
        gate.open();
        info!("ready on {}", socket.display());
        let keepers = [
            tokio::spawn(spares::refill(node.clone())),
            tokio::spawn(reconcile::run(node.clone())),
            tokio::spawn(network::run(node.clone())),
            tokio::spawn(needs::run(node.clone())),
            tokio::spawn(written::run(node.clone())),
            tokio::spawn(nameserver::run(node.clone())),
        ];
        let ended = tokio::select! {
            () = &mut stop => None,
            ended = &mut serving => Some(ended),
        };
        info!("stopping; containers keep running");
        keepers.iter().for_each(tokio::task::JoinHandle::abort);
        let _ = stopping.send(true);
        node.subscribers.close();
        let (outcome, ()) = tokio::join!(
            async {
                match ended {
                    Some(ended) => Some(ended).inspect(|_| warn!("the socket ended")),
                    None => last_answers(serving, &calls).await,
                }
            },
            node.streaming.stop(),
        );
        // A task that is just running ends at its next wait.
        futures::future::join_all(keepers).await;
        // Else a spare, or a repair of the network, would be finished after its removal here.
        if tokio::time::timeout(STOP_GRACE, node.tended()).await.is_err() {
            warn!("work in the background takes longer than {} s and was left behind", STOP_GRACE.as_secs());
        }
        let removed = node.block(|node| remove_spares(node)).await;
        if let Err(failed) = removed {
            error!("{}; the next start sweeps them", host::chain(&failed));
        }
        node.block(|node| leave_network(node)).await;
        for socket in [socket, admin::socket(&node.config.state)] {
            if let Err(failed) = host::fs::remove_file(&socket) {
                warn!("cannot remove {}: {failed}", socket.display());
            }
        }
        node.close_records();
        drop(locks);
        match outcome {
            Some(Ok(served)) => Ok(served?),
            Some(Err(defect)) => std::panic::resume_unwind(defect.into_panic()),
            None => Ok(()),
        }
    }
}

/// Waits until the running calls are answered and the connections have ended, or for a while; None: connections are left open.
async fn last_answers<T>(
    mut serving: tokio::task::JoinHandle<T>,
    calls: &TaskTracker,
) -> Option<Result<T, tokio::task::JoinError>> {
    calls.close();
    let answered = async {
        match tokio::time::timeout(STOP_GRACE, calls.wait()).await {
            Ok(()) => tokio::time::sleep(FAREWELL).await,
            Err(_) => warn!("calls that take longer than {} s were left behind", STOP_GRACE.as_secs()),
        }
    };
    tokio::select! {
        ended = &mut serving => Some(ended),
        () = answered => None,
    }
}

fn remove_spares(node: &Node) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    failures.keep(node.images.close());
    failures.keep(spares::remove_all(node));
    failures.result(Error::several("cannot remove what was made ahead".to_owned()))
}

/// Removes the shared part of the network and the name server if no pod is left, so that a node that is given up keeps no trace.
fn leave_network(node: &Node) {
    if !node.store.pods().is_empty() {
        return;
    }
    if let Err(failed) = nameserver::stop(node) {
        warn!("{}", host::chain(&failed));
    }
    if let Err(failed) = node.network.unconfigure() {
        warn!("{}", host::chain(&failed));
    }
}

async fn serve(
    node: Arc<Node>,
    (listener, admin): (UnixListener, UnixListener),
    layer: DeliverLayer,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let admin_service = AdminServer::new(AdminService(node.clone()));
    let service = Service(node);
    let runtime = RuntimeServiceServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let image = ImageServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let stop = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        // A sender that was dropped is a stop too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let builder = || {
        tonic::transport::Server::builder().concurrency_limit_per_connection(CALLS_PER_CONNECTION).layer(layer.clone())
    };
    let cri = builder()
        .add_service(runtime)
        .add_service(image)
        .serve_with_incoming_shutdown(connections::accept(listener), stop(stopped.clone()));
    let admin =
        builder().add_service(admin_service).serve_with_incoming_shutdown(connections::accept(admin), stop(stopped));
    tokio::try_join!(cri, admin).map(drop)
}

/// Opens the socket with mode 0600. Removes the socket of a killed server: the locks say that none runs.
fn listen(socket: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Host { operation: format!("listen on {}", socket.display()), source };
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    match fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => host::fs::remove_file(socket).map_err(failed)?,
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"))),
        Err(_) => {}
    }
    // Bound under a private name and renamed, so that it is never open to others.
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    let private = socket.with_file_name(format!(".{name}.{}", std::process::id()));
    host::fs::remove_file(&private).map_err(failed)?;
    let listener = UnixListener::bind(&private).map_err(failed)?;
    host::fs::set_mode(&private, 0o600).map_err(failed)?;
    fs::rename(&private, socket).map_err(failed)?;
    Ok(listener)
}
