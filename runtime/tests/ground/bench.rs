//! A pod to test in, and what both kernels' tests do with its containers.

use std::path::Path;
use std::sync::Arc;

use host::{ContainerId, PodId};
pub(crate) use runtime::conformance::{PATIENCE, eventually, readable};
use runtime::conformance::{container_spec, pod_spec};
use runtime::spec::{ContainerSpec, PodSpec};
use runtime::{ContainerState, Exit, Runtime};

/// A pod of the backend, and where its files are.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) settings: runtime::Settings,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: PodId,
}

impl Bench {
    /// A pod; None where the backend is not the one whose name begins like this.
    pub(crate) fn on(backend: &str, change: impl FnOnce(&mut PodSpec)) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let settings = crate::ground::settings(&directory.path().join("state"));
        let runtime = crate::ground::open(&settings).filter(|runtime| runtime.name().starts_with(backend))?;
        let mut spec = PodSpec { hostname: Some("inside".to_owned()), ..pod_spec() };
        change(&mut spec);
        runtime.create_pod(&spec, None).unwrap();
        Some(Self { directory, settings, runtime, pod: spec.id })
    }

    /// A container that runs a shell's script, in a directory that its image does not have.
    pub(crate) fn script(&self, script: &str, path: &str) -> ContainerSpec {
        let id = ContainerId::random();
        let log_path = Some(self.directory.path().join(format!("{}.log", id.short())));
        let args = ["/bin/sh", "-c", script].map(str::to_owned);
        let rootfs = crate::ground::make_rootfs(self.directory.path());
        let mut spec = container_spec(id, &self.pod, rootfs, &args, log_path);
        spec.process.env = vec![("PATH".to_owned(), path.to_owned())];
        spec.process.cwd = "/work/below".into();
        spec.process.user.group = None;
        spec
    }

    pub(crate) fn start(&self, spec: &ContainerSpec) {
        self.runtime.create_container(spec).unwrap();
        self.runtime.start_container(&spec.id).unwrap();
    }

    pub(crate) fn wait(&self, spec: &ContainerSpec) -> Exit {
        let ended = self.runtime.exit_descriptor(&spec.id).unwrap();
        assert!(readable(&ended, PATIENCE), "the container ends");
        match self.runtime.container_state(&spec.id).unwrap() {
            ContainerState::Exited { exit, .. } => exit,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a container to its end and returns its exit and its output.
    pub(crate) fn output(&self, spec: &ContainerSpec) -> (Exit, String) {
        self.start(spec);
        let exit = self.wait(spec);
        (exit, self.log(spec))
    }

    pub(crate) fn log(&self, spec: &ContainerSpec) -> String {
        logged(spec.log_path.as_ref().unwrap())
    }
}

/// The text of a log: the fourth field of each entry, the line feed of a part taken away.
pub(crate) fn logged(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let entry = |line: &str| {
        let mut fields = line.splitn(4, ' ').skip(2);
        let end = if fields.next() == Some("P") { "" } else { "\n" };
        fields.next().unwrap().to_owned() + end
    };
    text.split_terminator('\n').map(entry).collect()
}
