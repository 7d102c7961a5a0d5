//! A client of the server's gRPC services: one connection, blocking calls with a deadline, and calls that hang up. For tests that
//! make hundreds of calls or measure one: crictl starts a process for each.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::*;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The time-out of a call on a busy machine: longer than the longest grace period of the tests.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// The largest response, in bytes, as in kubelet.
const MAX_ANSWER: usize = 16 << 20;
/// The longest message of an error, in bytes with the other headers: of runc's, a server may pass on all that it printed.
const MAX_HEADERS: u32 = 1 << 20;

/// The runtime service.
pub type Runtime = RuntimeServiceClient<Channel>;
/// The image service.
pub type Image = ImageServiceClient<Channel>;

/// A connection, which reconnects to a restarted server.
#[derive(Debug, Clone)]
pub struct Client {
    tokio: Handle,
    channel: Channel,
}

/// The file of an address.
///
/// # Errors
/// It is not `unix://PATH`.
pub fn socket(address: &str) -> Result<PathBuf> {
    Ok(address.strip_prefix("unix://").context("an address is unix://PATH")?.into())
}

impl Client {
    /// Connects to a socket on the first call.
    pub fn new(tokio: &Handle, socket: PathBuf) -> Self {
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let _inside = tokio.enter();
        let endpoint = Endpoint::from_static("http://localhost").http2_max_header_list_size(MAX_HEADERS);
        let channel = endpoint.connect_with_connector_lazy(connect);
        Self { tokio: tokio.clone(), channel }
    }

    /// The client of the runtime service.
    pub fn runtime(&self) -> Runtime {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The client of the image service.
    pub fn image(&self) -> Image {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Waits for a call.
    pub fn call<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let late = |_| Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs())));
        let answer = self.tokio.block_on(async { tokio::time::timeout(CALL_TIMEOUT, call).await });
        answer.unwrap_or_else(late)
    }

    /// Hangs up after this time, unless the response comes first.
    pub fn hang_up<T>(&self, call: impl Future<Output = Result<T, Status>>, after: Duration) {
        let _ = self.tokio.block_on(async { tokio::time::timeout(after, call).await });
    }

    /// Whether the server serves: recovery is over.
    pub fn serves(&self) -> bool {
        self.call(self.runtime().version(VersionRequest::default())).is_ok()
    }

    /// Pulls an image.
    pub fn pull(&self, name: &str) -> Result<String, Status> {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        let request = PullImageRequest { image, ..PullImageRequest::default() };
        Ok(self.call(self.image().pull_image(request))?.into_inner().image_ref)
    }

    /// The ids of all pods.
    pub fn pods(&self) -> Result<Vec<String>> {
        let request = ListPodSandboxRequest::default();
        let answer = self.call(self.runtime().list_pod_sandbox(request)).context("ListPodSandbox")?;
        Ok(answer.into_inner().items.into_iter().map(|pod| pod.id).collect())
    }

    /// A pod's status.
    pub fn pod(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.call(self.runtime().pod_sandbox_status(request))?;
        answer.into_inner().status.ok_or_else(|| Status::internal("PodSandboxStatus answered without a status"))
    }

    /// A container's status.
    pub fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.call(self.runtime().container_status(request))?;
        answer.into_inner().status.ok_or_else(|| Status::internal("ContainerStatus answered without a status"))
    }

    /// Removes a pod with its containers.
    pub fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(self.runtime().remove_pod_sandbox(request)).map(drop)
    }
}
