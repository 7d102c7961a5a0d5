//! What a spec works with: it makes what is needed, and at the end of the spec removes all of it, whatever became of the spec.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1::*;
use tonic::Status;

use super::Ground;
use super::pod::{Container, Pod, refused};
use super::segment::Segment;
use super::system::System;
use crate::process::{Background, Program};

/// How long something that goes on by itself may take, also on a machine that is emulated.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The label that all pods of a stage have, with its name.
const LABEL: &str = "stage";
/// The first key of shared memory segments: no other program's.
const FIRST_KEY: i32 = 0x0cb0_0000;

/// Where one spec makes what it needs.
pub(super) struct Stage<'a> {
    /// The server, and where files are made.
    pub(super) ground: &'a Ground<'a>,
    /// What is different here.
    pub(super) system: &'static System,
    name: String,
    dir: PathBuf,
    segments: RefCell<Vec<Segment>>,
    count: Cell<u32>,
}

impl<'a> Stage<'a> {
    /// A stage in a new directory; the name is no other stage's.
    pub(super) fn new(ground: &'a Ground<'a>, system: &'static System, name: String) -> Result<Self> {
        let dir = ground.dir.join(&name);
        std::fs::create_dir_all(&dir)?;
        // Its real path: the server says where a mount leads.
        let dir = dir.canonicalize()?;
        Ok(Self { ground, system, name, dir, segments: RefCell::default(), count: Cell::new(0) })
    }

    /// A number that it has not given before.
    pub(super) fn next(&self) -> u32 {
        self.count.replace(self.count.get() + 1)
    }

    /// A directory of the host; made.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A segment of shared memory, made in a container with this text. What is left of it on the host is removed at the end.
    pub(super) fn segment(&self, container: &Container<'_>, text: &str) -> Result<Segment> {
        let key = FIRST_KEY + i32::try_from(std::process::id() % 0x1000)? * 0x100 + i32::try_from(self.next())?;
        let printed = container.exec(&format!("shm make {key} {text}"))?;
        let id = printed.parse().with_context(|| format!("shm printed {printed:?}"))?;
        let segment = Segment { key, id, known_by_key: self.system.shares_segment_keys };
        self.segments.borrow_mut().push(segment);
        Ok(segment)
    }

    /// An ordinary pod.
    pub(super) fn pod(&self) -> Result<Pod<'_>> {
        self.pod_with(|_| ())
    }

    /// A pod that is not ordinary.
    pub(super) fn pod_with(&self, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<Pod<'_>> {
        self.run_pod(change, "").context("RunPodSandbox")
    }

    /// A pod that must be refused for this field or word.
    pub(super) fn pod_refused(&self, word: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<()> {
        refused("RunPodSandbox", self.run_pod(change, "").map(|pod| pod.id), word)
    }

    /// RunPodSandbox for a runtime handler.
    pub(super) fn run_pod(&self, change: impl FnOnce(&mut PodSandboxConfig), handler: &str) -> Result<Pod<'_>, Status> {
        let name = format!("{}-{}", self.name, self.next());
        let metadata = PodSandboxMetadata {
            name: name.clone(),
            uid: format!("uid-{name}"),
            namespace: "specs".to_owned(),
            attempt: 0,
        };
        let mut config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.clone(),
            log_directory: self.dir.join(name).to_string_lossy().into_owned(),
            labels: self.label(),
            linux: Some(LinuxPodSandboxConfig::default()),
            ..PodSandboxConfig::default()
        };
        change(&mut config);
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let client = self.ground.client;
        let id = client.call(client.runtime().run_pod_sandbox(request))?.into_inner().pod_sandbox_id;
        Ok(Pod { stage: self, id, config })
    }

    /// crictl's port-forward from a port of 127.0.0.1 to one of a pod, in the background.
    pub(super) fn forward(&self, pod: &str, from: u16, to: u16) -> Result<Background> {
        let (address, ports) = (format!("unix://{}", self.ground.socket.display()), format!("{from}:{to}"));
        let args = ["--runtime-endpoint", &address, "--image-endpoint", &address, "port-forward", pod, &ports];
        let program = Program::new(self.ground.crictl, args).env("CRI_CONFIG_FILE", "/dev/null");
        program.background(&self.dir.join("port-forward.log"))
    }

    fn label(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL.to_owned(), self.name.clone())])
    }

    /// Every pod of this stage, by the server's word: also one whose maker did not get an answer.
    fn pods(&self) -> Result<Vec<String>, Status> {
        let filter = PodSandboxFilter { label_selector: self.label(), ..PodSandboxFilter::default() };
        let client = self.ground.client;
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer = client.call(client.runtime().list_pod_sandbox(request))?;
        Ok(answer.into_inner().items.into_iter().map(|pod| pod.id).collect())
    }

    /// Removes everything that the spec made; everything is tried, and each error is told.
    pub(super) fn remove(self) -> Result<()> {
        let mut errors = Vec::new();
        match self.pods() {
            Ok(pods) => errors.extend(pods.iter().filter_map(|pod| {
                let removed = self.ground.client.remove_pod(pod);
                removed.err().map(|error| format!("cannot remove pod {pod}: {error}"))
            })),
            Err(error) => errors.push(format!("cannot list the pods: {error}")),
        }
        for segment in self.segments.into_inner() {
            match segment.is_on_host() {
                Ok(true) => errors.extend(segment.remove_from_host().err().map(|error| error.to_string())),
                Ok(false) => {}
                Err(error) => errors.push(error.to_string()),
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            errors.push(format!("cannot remove {}: {error}", self.dir.display()));
        }
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }
}

/// A port of 127.0.0.1 that nobody listened on a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
