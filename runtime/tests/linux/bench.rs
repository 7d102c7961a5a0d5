//! A pod to test in, and containers as a test wants them.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{ContainerId, PodId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::spec::{ContainerSpec, NameOrId, PidScope, PodSpec, Process, Profile, Resources, Scope, Security, User};
use runtime::{ContainerState, Exit, Runtime};

/// How long a test waits for what happens at once on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A pod of the backend, and where its files are.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) settings: runtime::Settings,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: PodId,
}

impl Bench {
    /// A pod; None where this is not the backend.
    fn new(change: impl FnOnce(&mut PodSpec)) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let settings = crate::ground::settings(&directory.path().join("state"));
        let runtime = crate::ground::open(&settings).filter(|runtime| runtime.name().starts_with("linux"))?;
        let mut spec = PodSpec {
            id: PodId::random(),
            hostname: Some("inside".to_owned()),
            network: Scope::Pod,
            ipc: Scope::Pod,
            pid: PidScope::Container,
            resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
            sysctls: std::collections::BTreeMap::new(),
            cgroup_parent: None,
            privileged: false,
            resources: Resources::default(),
        };
        change(&mut spec);
        runtime.create_pod(&spec, None).unwrap();
        Some(Self { directory, settings, runtime, pod: spec.id })
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        let id = ContainerId::random();
        let log_path = Some(self.directory.path().join(format!("{}.log", id.short())));
        ContainerSpec {
            id,
            pod: self.pod.clone(),
            rootfs: crate::ground::make_rootfs(self.directory.path()),
            readonly_rootfs: false,
            process: Process {
                args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
                env: vec![("PATH".to_owned(), "/bin".to_owned()), ("GREETING".to_owned(), "hello".to_owned())],
                cwd: "/work/below".into(),
                tty: false,
                user: User { user: NameOrId::Id(0), group: None, supplemental: Vec::new(), merge_image_groups: false },
            },
            pid: PidScope::Container,
            mounts: Vec::new(),
            devices: Vec::new(),
            resources: Resources::default(),
            security: Security {
                privileged: false,
                no_new_privileges: false,
                add_capabilities: Vec::new(),
                drop_capabilities: Vec::new(),
                ambient_capabilities: Vec::new(),
                masked_paths: vec!["/proc/keys".into()],
                readonly_paths: vec!["/proc/sys".into()],
                seccomp: Profile::RuntimeDefault,
                apparmor: Profile::RuntimeDefault,
            },
            stdin: false,
            stdin_once: false,
            log_path,
        }
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

    /// The text of the log: the fourth field of each entry, the line feed of a part taken away.
    pub(crate) fn log(&self, spec: &ContainerSpec) -> String {
        let text = std::fs::read_to_string(spec.log_path.as_ref().unwrap()).unwrap();
        let entry = |line: &str| {
            let mut fields = line.splitn(4, ' ').skip(2);
            let end = if fields.next() == Some("P") { "" } else { "\n" };
            fields.next().unwrap().to_owned() + end
        };
        text.split_terminator('\n').map(entry).collect()
    }

    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Runs a test in a pod, which is removed also when the test fails; nothing runs where this is not the backend.
pub(crate) fn in_pod(change: impl FnOnce(&mut PodSpec), test: impl FnOnce(&Bench)) {
    let Some(bench) = Bench::new(change) else { return };
    let failure = std::panic::catch_unwind(AssertUnwindSafe(|| test(&bench))).err();
    let removed = bench.runtime.remove_pod(&bench.pod);
    if let Some(failure) = failure {
        resume_unwind(failure);
    }
    removed.unwrap();
    assert_eq!(bench.runtime.inventory().unwrap(), runtime::Inventory::default());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(bench.directory.path().to_str().unwrap()), "{mounts}");
}

pub(crate) fn readable(descriptor: &impl AsFd, timeout: Duration) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(timeout).unwrap()).unwrap() == 1
}
