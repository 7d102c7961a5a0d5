//! A machine for the tests: kernels that are fakes and outlive their servers, a registry with one image, and servers that are
//! started, stopped and killed on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cri::{Backends, Config, MESSAGE_LIMIT, Node, Opening, Server};
use host::fault::Faults;
use host::worker::Workers;
use hyper_util::rt::TokioIo;
use network::Network;
use network::fake::{FakeKernel, FakeNetwork};
use proto::admin::admin_client::AdminClient;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::*;
use runtime::Runtime;
use runtime::fake::{Fake, Kernel};
use testimage::{Compression, Contents, Image, Layer, Tree};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A machine.
pub(crate) struct World {
    directory: tempfile::TempDir,
    /// The faults of all its fakes and records.
    pub(crate) faults: Faults,
    /// Its pods and containers.
    pub(crate) kernel: Kernel,
    pub(crate) network: FakeKernel,
    spares: u32,
    /// The pod networks of its configuration; none: kubelet must name them.
    pub(crate) networks: Vec<&'static str>,
    /// The image that its registry serves.
    pub(crate) image: String,
    /// The treatment of a mount whose host path is missing.
    pub(crate) missing_host_path: cri::MissingHostPath,
    /// The images that its configuration pins.
    pub(crate) pinned: Vec<String>,
    /// The time between two readings of what containers have written: an hour, unless a test shortens it.
    pub(crate) written_period: Duration,
}

pub(crate) struct Running {
    tokio: Option<tokio::runtime::Runtime>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<Result<(), cri::ServeError>>>,
    /// Its state.
    pub(crate) node: Arc<Node>,
    pub(crate) socket: PathBuf,
    admin_socket: PathBuf,
}

impl World {
    /// A machine whose runtime has no use for spares.
    pub(crate) fn new() -> Self {
        Self::with_spares(0)
    }

    /// A machine whose servers keep this many spares.
    pub(crate) fn with_spares(spares: u32) -> Self {
        let kernel = Kernel::default();
        let faults = kernel.faults.clone();
        let network = FakeKernel::new(faults.clone());
        let directory = directory();
        let registry = registry_address();
        let image = format!("{registry}/test/pause:latest");
        let networks = vec!["10.20.0.0/24", "fd00:20::/64"];
        let missing_host_path = cri::MissingHostPath::Create;
        let world = Self {
            directory,
            faults,
            kernel,
            network,
            spares,
            networks,
            image,
            missing_host_path,
            pinned: Vec::new(),
            written_period: Duration::from_secs(3600),
        };
        world.trust(registry);
        world
    }

    /// Lets a registry be asked without encryption.
    pub(crate) fn trust(&self, registry: std::net::SocketAddr) {
        let hosts = self.directory.path().join("certs.d").join(registry.to_string());
        std::fs::create_dir_all(&hosts).unwrap();
        std::fs::write(hosts.join("hosts.toml"), format!("server = \"http://{registry}\"\n")).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("cri.sock")
    }

    /// The configuration of its servers and of the commands that ask them.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config {
            address: format!("unix://{}", self.socket().display()),
            root: self.directory.path().join("root"),
            state: self.directory.path().join("state"),
            spares: self.spares,
            runtime_handlers: vec!["other".to_owned()],
            missing_host_path: self.missing_host_path,
            jail_parameters: ["allow.mlock", "osrelease"].map(str::to_owned).to_vec(),
            ..Config::default()
        };
        config.image.pinned = self.pinned.clone();
        config.network.pod_cidrs = self.networks.iter().map(|text| text.parse().unwrap()).collect();
        config
    }

    /// The backend, as a server opens it.
    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(Fake { kernel: self.kernel.clone(), spares: self.spares > 0 })
    }

    fn network(&self) -> Arc<dyn Network> {
        Arc::new(FakeNetwork::new(self.network.clone(), Default::default()))
    }

    fn backends(&self) -> Backends {
        let runtime = self.runtime();
        let rootfs = image::rootfs::Fake::open(&self.directory.path().join("roots"), self.faults.clone()).unwrap();
        let images = image::Images::open(image::Settings {
            root: self.images(),
            registry_config: Some(self.directory.path().join("certs.d")),
            registry_timeout: Duration::from_secs(60),
            workers: Workers::of_program(env!("CARGO_BIN_EXE_cellblock").as_ref()),
            rootfs: Arc::new(rootfs),
            platforms: runtime.platforms(),
        });
        Backends { runtime, network: self.network(), images: images.unwrap(), rootfs: "fake" }
    }

    /// Starts a server, and waits until it has recovered.
    pub(crate) fn start(&self) -> Running {
        let running = self.begin(|| ());
        running.wait_until_ready();
        running
    }

    /// Starts a server; `opened` runs before its recovery.
    pub(crate) fn begin(&self, opened: impl FnOnce()) -> Running {
        let config = self.config();
        let locks = self.wait_for_locks();
        let admin_socket = cri::admin_socket(&config.state);
        let socket = self.socket();
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = tokio.block_on(async {
            let backends = self.backends();
            let streaming = streaming::Server::bind(Default::default(), backends.runtime.clone()).await.unwrap();
            let (faults, written_period) = (self.faults.clone(), self.written_period);
            let opening = Opening { config, streaming, faults, written_period };
            Server::open(locks, &socket, backends, opening).unwrap()
        });
        opened();
        let node = server.node().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio.spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Running { tokio: Some(tokio), stop: Some(stop), served: Some(served), node, socket, admin_socket }
    }

    /// Takes the locks of its servers.
    pub(crate) fn lock(&self, config: &Config) -> Result<cri::Locks, cri::ServeError> {
        cri::lock(config, self.directory.path())
    }

    /// The kernel releases the locks of a killed server when its last thread ends.
    fn wait_for_locks(&self) -> cri::Locks {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lock(&self.config()) {
                Ok(locks) => return locks,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// What is left of pods and containers, wherever anything can be left; empty: nothing.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let held = self.runtime().inventory().unwrap();
        left.extend(held.pods.iter().map(|id| format!("pod {id:?}")));
        left.extend(held.spares.iter().map(|id| format!("spare {id:?}")));
        left.extend(held.containers.keys().map(|id| format!("container {id:?}")));
        left.extend(self.network().inventory().unwrap().iter().map(|id| format!("network of {id:?}")));
        left
    }

    /// Loses what a reboot loses.
    pub(crate) fn reboot(&self) {
        self.kernel.reboot();
        self.network.reboot();
    }

    pub(crate) fn root(&self, container: &str) -> PathBuf {
        self.directory.path().join("roots/containers").join(container).join("root")
    }

    /// The directory of the images' blobs and records.
    pub(crate) fn images(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    /// The state directory of its servers.
    pub(crate) fn state(&self) -> PathBuf {
        self.config().state
    }

    /// The file of the records.
    pub(crate) fn records(&self) -> PathBuf {
        self.config().root.join("records.redb")
    }
}

/// A directory in memory where there is room, since every change of a record waits for the disk that it is on.
fn directory() -> tempfile::TempDir {
    const MEMORY: &str = "/dev/shm";
    let room = nix::sys::statvfs::statvfs(MEMORY).map(|stat| stat.blocks_available() * stat.fragment_size());
    if room.is_ok_and(|room| room > 1 << 30) { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() }.unwrap()
}

impl Running {
    fn tokio(&self) -> &tokio::runtime::Runtime {
        self.tokio.as_ref().expect("it runs")
    }

    /// A connection of its own.
    pub(crate) fn channel(&self) -> Channel {
        self.connect(self.socket.clone())
    }

    /// A client of the admin service.
    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.connect(self.admin_socket.clone()))
    }

    fn connect(&self, socket: PathBuf) -> Channel {
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let _inside = self.tokio().enter();
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
    }

    pub(crate) fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// Runs a client's work.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.tokio().block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("it does not hang") })
    }

    /// Begins a client's work.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tokio().spawn(work)
    }

    fn wait_until_ready(&self) {
        let mut client = self.client();
        self.run(async {
            loop {
                match client.version(VersionRequest::default()).await {
                    Ok(_) => return,
                    Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }

    /// Pulls the world's image.
    pub(crate) fn pull(&self, world: &World) {
        let mut client = ImageServiceClient::new(self.channel());
        let image = Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() });
        self.run(client.pull_image(PullImageRequest { image, ..PullImageRequest::default() })).unwrap();
    }

    /// Stops it as SIGTERM does.
    pub(crate) fn stop(mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let (tokio, served) = (self.tokio.take().expect("it runs"), self.served.take().expect("it runs"));
        tokio.block_on(async { tokio::time::timeout(PATIENCE, served).await }).unwrap().unwrap().unwrap();
        tokio.shutdown_background();
    }

    /// Ends it as SIGKILL does, as far as that can be done to threads: nothing more reaches its records.
    pub(crate) fn kill(mut self) {
        self.node.close_records();
        self.tokio.take().expect("it runs").shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}

pub(crate) fn pod(name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned()), ("tier".to_owned(), "front".to_owned())]),
        annotations: BTreeMap::from([("note".to_owned(), "kept".to_owned())]),
        ..PodSandboxConfig::default()
    }
}

pub(crate) fn container(world: &World, name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        labels: BTreeMap::from([("name".to_owned(), name.to_owned())]),
        ..ContainerConfig::default()
    }
}

pub(crate) fn run_pod(name: &str) -> RunPodSandboxRequest {
    RunPodSandboxRequest { config: Some(pod(name)), runtime_handler: String::new() }
}

/// A request for a container.
pub(crate) fn create(
    world: &World,
    pod_id: &str,
    pod_name: &str,
    name: &str,
    command: &[&str],
) -> CreateContainerRequest {
    CreateContainerRequest {
        pod_sandbox_id: pod_id.to_owned(),
        config: Some(container(world, name, command)),
        sandbox_config: Some(pod(pod_name)),
    }
}

/// Makes a pod `web` and a container `main` in it, which is not started; their ids.
pub(crate) async fn made(
    client: &mut RuntimeServiceClient<Channel>,
    world: &World,
    command: &[&str],
) -> (String, String) {
    let pod = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
    let request = create(world, &pod, "web", "main", command);
    let container = client.create_container(request).await.unwrap().into_inner().container_id;
    (pod, container)
}

/// The registry that all tests of this process share: one image of one small layer.
fn registry_address() -> std::net::SocketAddr {
    static ADDRESS: OnceLock<std::net::SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(async {
                let (address, _tasks) = testimage::serve(contents()).await.unwrap();
                sender.send(address).unwrap();
                std::future::pending::<()>().await;
            });
        });
        receiver.recv().unwrap()
    })
}

fn contents() -> Contents {
    let tar = Tree::default().file("etc/hello", "hi\n").tar().unwrap();
    let config = testimage::Config {
        cmd: vec!["forever"],
        env: vec!["PATH=/bin"],
        stop_signal: "SIGUSR1",
        architecture: "amd64",
        ..testimage::Config::default()
    };
    let image = Image::new(&[Layer::new(&tar, Compression::None).unwrap()], &config);
    let mut contents = Contents::new("test/pause");
    contents.add(&image);
    contents.tag("latest", &image.manifest);
    for (tag, volumes) in [("volumes", vec!["/etc", "/not/there"]), ("file-as-volume", vec!["/etc/hello"])] {
        let config = testimage::Config { entrypoint: vec![""], volumes, ..config.clone() };
        let image = Image::new(&[Layer::new(&tar, Compression::Gzip).unwrap()], &config);
        contents.add(&image);
        contents.tag(tag, &image.manifest);
    }
    contents
}
