//! The calls of a soak. A call that meets a fault is retried, as by kubelet; some are first made by a client that hangs up; an
//! object whose response was lost is found by its label.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::v1::*;
use tonic::{Code, Status};

use super::pod::{container, label, pod};
use super::{PATIENCE, POLL, Scene, away_since};
use crate::client::{Client, Runtime};
use crate::random::Random;

/// The grace period of a stop in seconds: so long that no container is killed.
const GRACE_S: i64 = 60;
/// One call in this many is first made by a client that hangs up.
const HANG_UPS: u64 = 12;
/// Its hang-up, in milliseconds after the call: before, during and after the work.
const MOST_WAITED_MS: u64 = 300;

/// The caller.
pub(super) struct Caller<'a> {
    pub(super) scene: &'a Scene<'a>,
    pub(super) client: Client,
    pub(super) random: Random,
}

/// A pod with its first status.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
    pub(super) network: Option<PodSandboxNetworkStatus>,
}

/// A call that can be retried, and the field of its response.
macro_rules! call {
    ($method:ident($request:expr) $($field:tt)*) => {{
        let request = $request;
        move |mut client: Runtime| {
            let request = request.clone();
            async move { client.$method(request).await.map(|answer| answer.into_inner()$($field)*) }
        }
    }};
}

impl Caller<'_> {
    /// Retries a call until it succeeds; only an error that a fault explains is retried.
    fn ask<T, F>(&mut self, what: &str, call: impl Fn(Runtime) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.make(what, call, |_| Ok(None))
    }

    /// Creates an object, or finds it if its response was lost.
    fn make<T, F>(
        &mut self,
        what: &str,
        call: impl Fn(Runtime) -> F,
        find: impl Fn(&mut Self) -> Result<Option<T>>,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let start = Instant::now();
        loop {
            if self.random.one_in(HANG_UPS) {
                let after = Duration::from_millis(self.random.below(MOST_WAITED_MS));
                self.client.hang_up(call(self.client.runtime()), after);
                self.scene.tally().hung_up += 1;
            }
            let then = self.scene.server.load(Ordering::SeqCst);
            let status = match self.client.call(call(self.client.runtime())) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let explained = status.code() == Code::Unavailable || away_since(&self.scene.server, then);
            if let Some(found) = find(self)? {
                return Ok(found);
            }
            ensure!(explained && start.elapsed() < PATIENCE, "{what}: {status}");
            std::thread::sleep(POLL);
        }
    }

    pub(super) fn run_pod(&mut self, name: &str) -> Result<Made> {
        let config = pod(name, &self.scene.site.dir().join("logs"));
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
        let call = call!(run_pod_sandbox(request).pod_sandbox_id);
        let id = self.make("RunPodSandbox", call, |this| this.find_pod(name))?;
        let network = self.pod(&id)?.network;
        ensure!(network.as_ref().is_some_and(|network| !network.ip.is_empty()), "pod {id} has no address");
        Ok(Made { id, config, network })
    }

    fn find_pod(&mut self, name: &str) -> Result<Option<String>> {
        let state = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() });
        let filter = Some(PodSandboxFilter { label_selector: label(name), state, ..PodSandboxFilter::default() });
        let pods = self.ask("ListPodSandbox", call!(list_pod_sandbox(ListPodSandboxRequest { filter }).items))?;
        Ok(pods.into_iter().next().map(|pod| pod.id))
    }

    pub(super) fn create(&mut self, made: &Made, name: &str, script: &str) -> Result<String> {
        let pid = if self.random.one_in(4) { NamespaceMode::Pod } else { NamespaceMode::Container };
        let request = CreateContainerRequest {
            pod_sandbox_id: made.id.clone(),
            config: Some(container(name, script, pid)),
            sandbox_config: Some(made.config.clone()),
        };
        self.make("CreateContainer", call!(create_container(request).container_id), |this| this.find_container(name))
    }

    fn find_container(&mut self, name: &str) -> Result<Option<String>> {
        let filter = Some(ContainerFilter { label_selector: label(name), ..ContainerFilter::default() });
        let found = self.ask("ListContainers", call!(list_containers(ListContainersRequest { filter }).containers))?;
        Ok(found.into_iter().next().map(|one| one.id))
    }

    /// Starts a container. If the response was lost, it runs or has exited.
    pub(super) fn start(&mut self, id: &str) -> Result<()> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        let answer = self.make("StartContainer", call!(start_container(request)), |this| {
            let started = this.container(id)?.state() != ContainerState::ContainerCreated;
            Ok(started.then(StartContainerResponse::default))
        });
        answer.map(drop)
    }

    pub(super) fn pod(&mut self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        self.ask("PodSandboxStatus", call!(pod_sandbox_status(request).status))?.context("no status")
    }

    pub(super) fn container(&mut self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.ask("ContainerStatus", call!(container_status(request).status))?.context("no status")
    }

    /// Waits for its exit.
    pub(super) fn exited(&mut self, id: &str) -> Result<ContainerStatus> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let status = self.container(id)?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
        bail!("container {id} has not ended after {} s", PATIENCE.as_secs())
    }

    pub(super) fn exec(&mut self, id: &str, script: &str) -> Result<ExecSyncResponse> {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
        self.ask("ExecSync", call!(exec_sync(request)))
    }

    pub(super) fn stop(&mut self, id: &str) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: GRACE_S };
        self.ask("StopContainer", call!(stop_container(request))).map(drop)
    }

    pub(super) fn stop_pod(&mut self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.ask("StopPodSandbox", call!(stop_pod_sandbox(request))).map(drop)
    }

    pub(super) fn remove_pod(&mut self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.ask("RemovePodSandbox", call!(remove_pod_sandbox(request))).map(drop)
    }
}
