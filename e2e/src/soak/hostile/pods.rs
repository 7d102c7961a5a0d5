//! The standing pods of a hostile soak: a container that counts, and one that serves on a port of the pod and of the host.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1::*;
use serde_json::Value;

use super::super::pod::{COUNTER, container, counted, pod};
use crate::client::Client;
use crate::images::HTTPD;
use crate::server::Site;

/// Digits of an id in a kernel name.
const SHORT: usize = 12;
/// The port of the web server.
const PORT: u16 = 80;
/// The time-out of one connection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A pod as it was made.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: String,
    /// The container that counts, and the one that serves.
    pub(super) containers: [ContainerStatus; 2],
    network: PodSandboxNetworkStatus,
    host_port: u16,
    logs: PathBuf,
    log: PathBuf,
}

impl Pod {
    /// Makes a pod whose host port is this.
    pub(super) fn make(site: &Site, client: &Client, name: &str, host_port: u16) -> Result<Self> {
        let mut config = pod(name, &site.dir().join("logs"));
        let port = PortMapping { container_port: PORT.into(), host_port: host_port.into(), ..PortMapping::default() };
        config.port_mappings = vec![port];
        let logs = PathBuf::from(&config.log_directory);
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
        let id = client.call(client.runtime().run_pod_sandbox(request))?.into_inner().pod_sandbox_id;
        let counter = container(&format!("{name}-counter"), COUNTER, NamespaceMode::Container);
        let log = logs.join(&counter.log_path);
        let mut server = container(&format!("{name}-server"), "", NamespaceMode::Container);
        server.image = Some(ImageSpec { image: HTTPD.to_owned(), ..ImageSpec::default() });
        server.command = Vec::new();
        let start = |wanted| {
            let request = CreateContainerRequest {
                pod_sandbox_id: id.clone(),
                config: Some(wanted),
                sandbox_config: Some(config.clone()),
            };
            let container_id = client.call(client.runtime().create_container(request))?.into_inner().container_id;
            let request = StartContainerRequest { container_id: container_id.clone() };
            client.call(client.runtime().start_container(request))?;
            anyhow::Ok(client.container(&container_id)?)
        };
        let containers = [start(counter)?, start(server)?];
        let network = client.pod(&id)?.network.context("a pod without a network")?;
        Ok(Self { id, containers, network, host_port, logs, log })
    }

    /// What the scripts of acts know: ids and the names of kernel objects.
    pub(super) fn variables(&self, site: &Site, client: &Client) -> Result<Vec<(&'static str, String)>> {
        let (prefix, short) = (site.prefix(), &self.id[..SHORT]);
        let counter = &self.containers[0].id;
        let request = ContainerStatusRequest { container_id: counter.clone(), verbose: true };
        let info = client.call(client.runtime().container_status(request))?.into_inner().info;
        let info: Value = serde_json::from_str(info.get("info").context("no verbose status")?)?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        Ok(vec![
            ("POD", self.id.clone()),
            ("SHORT", short.to_owned()),
            ("JAIL", format!("{prefix}{short}")),
            ("END", format!("{prefix}{short}o")),
            ("ADDRESS", self.network.ip.clone()),
            ("CONTAINER", counter[..SHORT].to_owned()),
            ("PID", info["pid"].to_string()),
            ("PREFIX", prefix.to_owned()),
            ("BRIDGE", format!("{prefix}br0")),
            ("ANCHOR", format!("cellblock-{prefix}")),
            ("ROOT", path(&site.dir().join("root"))),
            ("DIR", path(site.dir())),
        ])
    }

    /// Checks that nothing of it was lost, and that its network works: to another pod, from inside, and by its host port.
    pub(super) fn look(&self, client: &Client, other: &Self) -> Result<()> {
        let status = client.pod(&self.id)?;
        ensure!(status.state() == PodSandboxState::SandboxReady, "it is not ready");
        ensure!(status.network.as_ref() == Some(&self.network), "its network is {:?}", status.network);
        for was in &self.containers {
            let is = client.container(&was.id)?;
            ensure!(is == *was, "container {} was {was:?} and is {is:?}", was.id);
        }
        let first = self.count()?;
        let addresses = other.network.additional_ips.iter().map(|address| &address.ip);
        for address in [&other.network.ip].into_iter().chain(addresses) {
            let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w {} {address} {PORT}", TIMEOUT.as_secs());
            let cmd = ["sh", "-c", &script].map(str::to_owned).to_vec();
            let request = ExecSyncRequest { container_id: self.containers[0].id.clone(), cmd, timeout: 30 };
            let answer = client.call(client.runtime().exec_sync(request))?.into_inner();
            let heard = String::from_utf8_lossy(&answer.stdout);
            ensure!(heard.starts_with("HTTP/1."), "from inside, {address} says {heard:?}");
        }
        let heard = ask(self.host_port).with_context(|| format!("host port {}", self.host_port))?;
        ensure!(heard.starts_with("HTTP/1."), "host port {} says {heard:?}", self.host_port);
        ensure!(self.count()? > first, "its container counts no more");
        Ok(())
    }

    /// The last number in the log, in which none is missing.
    fn count(&self) -> Result<u64> {
        counted(&std::fs::read_to_string(&self.log).context("no log")?)
    }

    /// Checks that it is not ready, with a reason.
    pub(super) fn is_gone(&self, client: &Client) -> Result<()> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        let answer = client.call(client.runtime().pod_sandbox_status(request))?.into_inner();
        let status = answer.status.context("no status")?;
        ensure!(status.state() == PodSandboxState::SandboxNotready, "it is still ready");
        let info: Value = serde_json::from_str(answer.info.get("info").context("no verbose status")?)?;
        ensure!(info["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "it has no reason: {info}");
        Ok(())
    }

    /// Checks that the first container is reported as exited, with a reason, and that the pod is ready.
    pub(super) fn lacks_container(&self, client: &Client) -> Result<()> {
        let status = client.container(&self.containers[0].id)?;
        ensure!(status.state() == ContainerState::ContainerExited, "its container is {:?}", status.state());
        ensure!(!status.reason.is_empty() && status.exit_code != 0, "its container's exit: {status:?}");
        ensure!(client.pod(&self.id)?.state() == PodSandboxState::SandboxReady, "it is not ready");
        Ok(())
    }

    /// Stops and removes it, with its logs.
    pub(super) fn remove(&self, client: &Client) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        client.call(client.runtime().stop_pod_sandbox(request)).context("StopPodSandbox")?;
        client.remove_pod(&self.id).context("RemovePodSandbox")?;
        match std::fs::remove_dir_all(&self.logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("its logs"),
            _ => Ok(()),
        }
    }
}

fn ask(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
