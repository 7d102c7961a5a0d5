//! The steps of the demo, each one request of a CRI client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec, ListContainersRequest,
    ListPodSandboxRequest, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, PortMapping,
    PullImageRequest, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StatusRequest, StopContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::{Clock, Config, Options, READY, Server, image, program};

/// The port that the pod serves on.
const POD_PORT: u16 = 8080;
/// The grace period of the container's stop, in seconds.
const STOP_SECONDS: i64 = 5;

struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

pub(super) async fn play(
    clock: &mut Clock,
    server: &Server,
    config: &Config,
    registry: SocketAddr,
    options: &Options,
) -> anyhow::Result<()> {
    let mut client = connect(server, &config.address).await?;
    let version = client.runtime.version(VersionRequest::default()).await?.into_inner();
    ready(&mut client).await?;
    clock.step("serve", &format!("{} {} on {}", version.runtime_name, version.runtime_version, config.address));

    let reference = format!("{registry}/{}:latest", image::REPOSITORY);
    let spec = ImageSpec { image: reference.clone(), ..ImageSpec::default() };
    let request = PullImageRequest { image: Some(spec.clone()), ..PullImageRequest::default() };
    let image = client.images.pull_image(request).await.context("PullImage")?.into_inner().image_ref;
    clock.advance("pull", &format!("{reference} is {image}"))?;

    let pod_config = pod_config(config, host_port(options.host_port)?);
    let done = run(clock, &mut client, &pod_config, &spec).await;
    let removed = remove(clock, &mut client, spec).await;
    done.and(removed)
}

/// Connects as soon as the socket exists.
async fn connect(server: &Server, address: &str) -> anyhow::Result<Client> {
    let endpoint = Endpoint::from_shared(address.to_owned())?;
    let deadline = Instant::now() + READY;
    loop {
        match endpoint.connect().await {
            Ok(channel) => {
                let images = ImageServiceClient::new(channel.clone());
                let mut runtime = RuntimeServiceClient::new(channel);
                if runtime.version(VersionRequest::default()).await.is_ok() {
                    return Ok(Client { runtime, images });
                }
            }
            Err(error) if Instant::now() > deadline => {
                let log = std::fs::read_to_string(&server.log).unwrap_or_default();
                bail!("no server on {address}: {error}: {}", log.lines().last().unwrap_or_default());
            }
            Err(_) => {}
        }
        ensure!(Instant::now() < deadline, "the server is not ready after {} s", READY.as_secs());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Reports missing rights and programs, from the server's conditions.
async fn ready(client: &mut Client) -> anyhow::Result<()> {
    let status = client.runtime.status(StatusRequest::default()).await?.into_inner().status.unwrap_or_default();
    let missing: Vec<String> = status
        .conditions
        .iter()
        .filter(|condition| !condition.status)
        .map(|condition| format!("{}: {}", condition.r#type, condition.message))
        .collect();
    ensure!(missing.is_empty(), "this machine is not ready:\n  {}", missing.join("\n  "));
    Ok(())
}

/// A free port of the host.
fn host_port(wanted: u16) -> anyhow::Result<u16> {
    if wanted != 0 {
        return Ok(wanted);
    }
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    Ok(listener.local_addr()?.port())
}

fn pod_config(config: &Config, host_port: u16) -> PodSandboxConfig {
    let port = PortMapping { container_port: POD_PORT.into(), host_port: host_port.into(), ..PortMapping::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "demo".to_owned(),
            uid: "demo".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: "demo".to_owned(),
        log_directory: config.state.join("logs").display().to_string(),
        port_mappings: vec![port],
        ..PodSandboxConfig::default()
    }
}

fn container_config(spec: &ImageSpec) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "web".to_owned(), attempt: 0 }),
        image: Some(spec.clone()),
        args: vec![program::WORD.to_owned(), "serve".to_owned(), POD_PORT.to_string()],
        log_path: "web.log".to_owned(),
        ..ContainerConfig::default()
    }
}

async fn run(
    clock: &mut Clock,
    client: &mut Client,
    pod_config: &PodSandboxConfig,
    spec: &ImageSpec,
) -> anyhow::Result<()> {
    let request = RunPodSandboxRequest { config: Some(pod_config.clone()), runtime_handler: String::new() };
    let pod = client.runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
    let address: IpAddr = status.network.unwrap_or_default().ip.parse().context("the pod has no address")?;
    clock.advance("pod", &format!("{} has the address {address}", &pod[..13]))?;

    let request = CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container_config(spec)),
        sandbox_config: Some(pod_config.clone()),
    };
    let container =
        client.runtime.create_container(request).await.context("CreateContainer")?.into_inner().container_id;
    clock.advance("create", &format!("{} from the image", &container[..13]))?;
    let request = StartContainerRequest { container_id: container.clone() };
    client.runtime.start_container(request).await.context("StartContainer")?;
    clock.advance("start", &format!("{} {} serve {POD_PORT}", image::PROGRAM, program::WORD))?;

    let request = ExecSyncRequest {
        container_id: container.clone(),
        cmd: vec![image::PROGRAM.to_owned(), program::WORD.to_owned(), "hello".to_owned()],
        timeout: 10,
    };
    let executed = client.runtime.exec_sync(request).await.context("ExecSync")?.into_inner();
    let output = String::from_utf8_lossy(&executed.stdout).trim().to_owned();
    ensure!(executed.exit_code == 0, "hello ended with {}: {output}", executed.exit_code);
    clock.advance("exec", &format!("{output:?}"))?;

    fetch_all(clock, pod_config, address).await?;
    let log = PathBuf::from(&pod_config.log_directory).join("web.log");
    let text = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    clock.advance(
        "log",
        &format!("{} lines, the last: {}", text.lines().count(), text.lines().last().unwrap_or_default()),
    )?;

    let request = StopContainerRequest { container_id: container.clone(), timeout: STOP_SECONDS };
    client.runtime.stop_container(request).await.context("StopContainer")?;
    clock.advance("stop", &format!("container {}", &container[..13]))?;
    let request = RemoveContainerRequest { container_id: container.clone() };
    client.runtime.remove_container(request).await.context("RemoveContainer")?;
    clock.advance("remove", &format!("container {}", &container[..13]))?;
    Ok(())
}

/// Fetches from the pod's own address, and through the host port on loopback.
async fn fetch_all(clock: &mut Clock, pod_config: &PodSandboxConfig, address: IpAddr) -> anyhow::Result<()> {
    let host_port = u16::try_from(pod_config.port_mappings[0].host_port)?;
    for (name, address, port) in
        [("fetch", address, POD_PORT), ("host port", IpAddr::V4(Ipv4Addr::LOCALHOST), host_port)]
    {
        let address = SocketAddr::new(address, port);
        let body = fetch(address).await.with_context(|| format!("http://{address}/"))?;
        clock.advance(name, &format!("http://{address}/ answers {:?}", body.trim()))?;
    }
    Ok(())
}

async fn fetch(address: SocketAddr) -> anyhow::Result<String> {
    let deadline = Instant::now() + READY;
    let mut stream = loop {
        // The program in the container may not listen yet.
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    // Minimal HTTP: the server closes the connection after its response.
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").context("no HTTP response")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}

/// Removes every pod and the image, and checks that nothing is left.
async fn remove(clock: &mut Clock, client: &mut Client, spec: ImageSpec) -> anyhow::Result<()> {
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    for pod in pods {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        client.runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        clock.step("stop", &format!("pod {}", &pod.id[..13]));
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        client.runtime.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
        clock.step("remove", &format!("pod {}", &pod.id[..13]));
    }
    client.images.remove_image(RemoveImageRequest { image: Some(spec) }).await.context("RemoveImage")?;
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items.len();
    let containers =
        client.runtime.list_containers(ListContainersRequest::default()).await?.into_inner().containers.len();
    ensure!(pods + containers == 0, "{pods} pods and {containers} containers are left");
    clock.step("remove", "the image; no pod and no container is left");
    Ok(())
}
