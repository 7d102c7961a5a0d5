//! The stage of a spec: it makes pods and files for the spec, and removes all of them at its end, also after a failure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1::*;
use tonic::Status;

use super::Ground;
use super::pod::{Container, Pod, refused};
use super::segment::Segment;
use super::system::System;
use crate::process::{Background, Program};

/// The time-out of anything asynchronous, also on an emulated machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The label of all pods of a stage; its value is the stage's name.
const LABEL: &str = "stage";
/// The first key of shared memory segments, which no other program uses.
const FIRST_KEY: i32 = 0x0cb0_0000;

/// The pods and files of one spec.
pub(super) struct Stage<'a> {
    /// The server, and the directory of files.
    pub(super) ground: &'a Ground<'a>,
    /// The differences of this system.
    pub(super) system: &'static System,
    name: String,
    dir: PathBuf,
    segments: RefCell<Vec<Segment>>,
    count: Cell<u32>,
}

/// A mounted file system; dropping this unmounts it, also under containers of a spec that failed.
pub(super) struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Program::new("umount", ["-f".as_ref(), self.0.as_os_str()]).run();
    }
}

impl<'a> Stage<'a> {
    /// A stage in a new directory; the name is unique.
    pub(super) fn new(ground: &'a Ground<'a>, system: &'static System, name: String) -> Result<Self> {
        let dir = ground.dir.join(&name);
        std::fs::create_dir_all(&dir)?;
        // The real path: the server reports real paths of mounts.
        let dir = dir.canonicalize()?;
        Ok(Self { ground, system, name, dir, segments: RefCell::default(), count: Cell::new(0) })
    }

    /// A new number.
    pub(super) fn next(&self) -> u32 {
        self.count.replace(self.count.get() + 1)
    }

    /// Makes a directory on the host.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Mounts a file system of its own on a directory, which propagates nowhere.
    pub(super) fn tmpfs(&self, dir: &Path) -> Result<Tmpfs> {
        Program::new("mount", ["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), dir.as_os_str()]).run()?;
        let mounted = Tmpfs(dir.to_owned());
        if self.system.propagates_mounts {
            Program::new("mount", ["--make-private".as_ref(), dir.as_os_str()]).run()?;
        }
        Ok(mounted)
    }

    /// Makes a shared memory segment with this text in a container. The end of the stage removes it from the host.
    pub(super) fn segment(&self, container: &Container<'_>, text: &str) -> Result<Segment> {
        let key = FIRST_KEY + i32::try_from(std::process::id() % 0x1000)? * 0x100 + i32::try_from(self.next())?;
        let printed = container.exec(&format!("shm make {key} {text}"))?;
        let id = printed.parse().with_context(|| format!("shm printed {printed:?}"))?;
        let segment = Segment { key, id, known_by_key: self.system.shares_segment_keys };
        self.segments.borrow_mut().push(segment);
        Ok(segment)
    }

    /// Runs a pod with the default configuration.
    pub(super) fn pod(&self) -> Result<Pod<'_>> {
        self.pod_with(|_| ())
    }

    /// Runs a pod with a changed configuration.
    pub(super) fn pod_with(&self, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<Pod<'_>> {
        self.run_pod(change, "").context("RunPodSandbox")
    }

    /// RunPodSandbox, which must be refused with this field or word.
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

    /// Starts crictl's port-forward from a port of 127.0.0.1 to a port of a pod.
    pub(super) fn forward(&self, pod: &str, from: u16, to: u16) -> Result<Background> {
        let (address, ports) = (format!("unix://{}", self.ground.socket.display()), format!("{from}:{to}"));
        let args = ["--runtime-endpoint", &address, "--image-endpoint", &address, "port-forward", pod, &ports];
        let program = Program::new(self.ground.crictl, args).env("CRI_CONFIG_FILE", "/dev/null");
        program.background(&self.dir.join("port-forward.log"))
    }

    fn label(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL.to_owned(), self.name.clone())])
    }

    /// All pods of this stage on the server, also those whose response was lost.
    fn pods(&self) -> Result<Vec<String>, Status> {
        let filter = PodSandboxFilter { label_selector: self.label(), ..PodSandboxFilter::default() };
        let client = self.ground.client;
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer = client.call(client.runtime().list_pod_sandbox(request))?;
        Ok(answer.into_inner().items.into_iter().map(|pod| pod.id).collect())
    }

    /// Removes all objects of the spec, and reports every error.
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
