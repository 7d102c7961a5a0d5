//! Pods and containers, by the calls that kubelet makes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use proto::v1::*;
use tonic::{Code, Status};

use super::stage::{PATIENCE, Stage};
use crate::images::BUSYBOX;
use crate::wait::eventually;

/// The time-out of a command in a container, in seconds.
const EXEC_SECONDS: i64 = 30;

/// A running pod.
pub(super) struct Pod<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
}

impl<'a> Pod<'a> {
    pub(super) fn status(&self) -> Result<PodSandboxStatus> {
        self.stage.ground.client.pod(&self.id).context("PodSandboxStatus")
    }

    /// RemovePodSandbox, before the end of the spec.
    pub(super) fn remove(&self) -> Result<()> {
        self.stage.ground.client.remove_pod(&self.id).context("RemovePodSandbox")
    }

    /// CreateContainer, by default of a container that only waits.
    fn create(&self, change: impl FnOnce(&mut ContainerConfig)) -> Result<Container<'a>, Status> {
        let name = format!("c{}", self.stage.next());
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.clone(), attempt: 0 }),
            image: Some(ImageSpec { image: BUSYBOX.to_owned(), ..ImageSpec::default() }),
            command: ["tail", "-f", "/dev/null"].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        change(&mut config);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let client = self.stage.ground.client;
        let id = client.call(client.runtime().create_container(request))?.into_inner().container_id;
        Ok(Container { stage: self.stage, id, log })
    }

    /// Creates and starts a container.
    pub(super) fn container(&self, change: impl FnOnce(&mut ContainerConfig)) -> Result<Container<'a>> {
        let container = self.create(change).context("CreateContainer")?;
        let client = self.stage.ground.client;
        let request = StartContainerRequest { container_id: container.id.clone() };
        client.call(client.runtime().start_container(request)).context("StartContainer")?;
        Ok(container)
    }

    /// CreateContainer, which must be refused with this field or word.
    pub(super) fn refused(&self, word: &str, change: impl FnOnce(&mut ContainerConfig)) -> Result<()> {
        refused("CreateContainer", self.create(change).map(|container| container.id), word)
    }

    /// The output of a script as a container's command; it must succeed.
    pub(super) fn output(&self, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> Result<String> {
        let container = self.container(|config| {
            config.command = ["sh", "-c", script].map(str::to_owned).to_vec();
            change(config);
        })?;
        let status = container.ended()?;
        let text = container.log()?;
        ensure!(status.exit_code == 0, "{script}: exit code {} ({}): {text}", status.exit_code, status.reason);
        Ok(text)
    }
}

/// A started container.
pub(super) struct Container<'a> {
    stage: &'a Stage<'a>,
    pub(super) id: String,
    log: PathBuf,
}

impl Container<'_> {
    /// Executes a script inside, which must succeed; its output without the last newline.
    pub(super) fn exec(&self, script: &str) -> Result<String> {
        let answer = self.exec_sync(script)?;
        let text = String::from_utf8_lossy(&answer.stdout).trim_end().to_owned();
        let stderr = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.exit_code == 0, "{script}: exit code {}: {text} {stderr}", answer.exit_code);
        Ok(text)
    }

    /// Executes a script inside, which must fail.
    pub(super) fn fails(&self, script: &str) -> Result<()> {
        let answer = self.exec_sync(script)?;
        ensure!(answer.exit_code != 0, "{script}: succeeded: {}", String::from_utf8_lossy(&answer.stdout));
        Ok(())
    }

    fn exec_sync(&self, script: &str) -> Result<ExecSyncResponse> {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: self.id.clone(), cmd, timeout: EXEC_SECONDS };
        let client = self.stage.ground.client;
        let answer = client.call(client.runtime().exec_sync(request));
        answer.map(tonic::Response::into_inner).with_context(|| format!("ExecSync of {script}"))
    }

    pub(super) fn status(&self) -> Result<ContainerStatus> {
        self.stage.ground.client.container(&self.id).context("ContainerStatus")
    }

    /// The verbose part of its status.
    pub(super) fn info(&self) -> Result<serde_json::Value> {
        let request = ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        let client = self.stage.ground.client;
        let answer = client.call(client.runtime().container_status(request)).context("ContainerStatus")?.into_inner();
        let info = answer.info.get("info").context("a verbose status has no info")?;
        Ok(serde_json::from_str(info)?)
    }

    /// The path of its root on the host.
    pub(super) fn rootfs(&self) -> Result<PathBuf> {
        let info = self.info()?;
        let spec = &info["runtimeSpec"];
        let rootfs = spec["root"]["path"].as_str().or_else(|| spec["jail"]["path"].as_str());
        Ok(PathBuf::from(rootfs.with_context(|| format!("no rootfs in {info}"))?))
    }

    /// Waits for its exit.
    pub(super) fn ended(&self) -> Result<ContainerStatus> {
        eventually(PATIENCE, "the end of the container", || {
            let status = self.status()?;
            Ok(Some(status).filter(|status| status.state() == ContainerState::ContainerExited))
        })
    }

    /// Its output, without the last newline.
    pub(super) fn log(&self) -> Result<String> {
        let log = std::fs::read_to_string(&self.log).with_context(|| format!("no log {}", self.log.display()))?;
        let text = |line: &str| line.splitn(4, ' ').nth(3).map(str::to_owned);
        let lines: Option<Vec<String>> = log.lines().map(text).collect();
        Ok(lines.with_context(|| format!("the log is not in CRI's form: {log}"))?.join("\n"))
    }
}

/// Checks that a call is refused as invalid or unimplemented, with an error that names the field.
pub(super) fn refused(call: &str, answer: Result<String, Status>, word: &str) -> Result<()> {
    let status = match answer {
        Ok(id) => bail!("{call} with a bad {word} made {id}"),
        Err(status) => status,
    };
    ensure!(
        matches!(status.code(), Code::InvalidArgument | Code::NotFound),
        "{call} with a bad {word}: not refused as a bad request: {status}"
    );
    ensure!(status.message().contains(word), "{call}: no {word:?} in {status}");
    Ok(())
}

/// The mutable security context of a container.
pub(super) fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The mutable security context of a pod.
pub(super) fn pod_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The mutable namespaces of a pod.
pub(super) fn namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    pod_security(config).namespace_options.get_or_insert_default()
}

/// A mount of a directory or a file of the host.
pub(super) fn mount(from: &Path, to: &str, readonly: bool) -> Mount {
    Mount {
        host_path: from.to_string_lossy().into_owned(),
        container_path: to.to_owned(),
        readonly,
        ..Mount::default()
    }
}
