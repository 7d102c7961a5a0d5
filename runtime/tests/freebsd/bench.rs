//! A pod to test in, containers as a test wants them, and the base system's tools beside them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::run::Tool;
use host::{ContainerId, PodId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::spec::{
    ContainerSpec, Mount, MountSource, NameOrId, PidScope, PodSpec, Process, Profile, Propagation, Resources, Scope,
    Security, User,
};
use runtime::{ContainerState, Exit, Runtime};

/// An emulated machine is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) settings: runtime::Settings,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: PodId,
}

pub(crate) fn pod_spec() -> PodSpec {
    PodSpec {
        id: PodId::random(),
        hostname: Some("inside".to_owned()),
        network: Scope::Pod,
        ipc: Scope::Pod,
        pid: PidScope::Pod,
        resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
        sysctls: std::collections::BTreeMap::new(),
        cgroup_parent: None,
        privileged: false,
        resources: Resources::default(),
    }
}

pub(crate) fn security() -> Security {
    Security {
        privileged: false,
        no_new_privileges: false,
        add_capabilities: Vec::new(),
        drop_capabilities: Vec::new(),
        ambient_capabilities: Vec::new(),
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        seccomp: Profile::RuntimeDefault,
        apparmor: Profile::RuntimeDefault,
    }
}

impl Bench {
    /// A pod; None where this is not the backend.
    pub(crate) fn new(change: impl FnOnce(&mut PodSpec)) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let settings = crate::ground::settings(&directory.path().join("state"));
        let runtime = crate::ground::open(&settings).filter(|runtime| runtime.name() == "freebsd")?;
        let mut spec = pod_spec();
        change(&mut spec);
        runtime.create_pod(&spec, None).unwrap();
        Some(Self { directory, settings, runtime, pod: spec.id })
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        let id = ContainerId::random();
        let log_path = Some(self.directory.path().join(format!("{}.log", id.short())));
        let shell = User { user: NameOrId::Id(0), group: None, supplemental: Vec::new(), merge_image_groups: false };
        ContainerSpec {
            id,
            pod: self.pod.clone(),
            rootfs: crate::ground::make_rootfs(self.directory.path()),
            readonly_rootfs: false,
            process: Process {
                args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
                env: vec![("PATH".to_owned(), "/bin:/usr/bin:/sbin".to_owned())],
                cwd: "/work/below".into(),
                tty: false,
                user: shell,
            },
            pid: PidScope::Container,
            mounts: Vec::new(),
            devices: Vec::new(),
            resources: Resources::default(),
            security: security(),
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

    pub(crate) fn log(&self, spec: &ContainerSpec) -> String {
        let text = fs::read_to_string(spec.log_path.as_ref().unwrap()).unwrap();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| line.to_owned() + "\n").collect()
    }

    pub(crate) fn pod_jail(&self) -> String {
        format!("{}{}", self.settings.prefix, self.pod.short())
    }

    pub(crate) fn jail(&self, spec: &ContainerSpec) -> String {
        format!("{}.c{}", self.pod_jail(), spec.id.short())
    }

    /// Removes the pod; nothing of it is left in the kernel.
    pub(crate) fn remove(self) {
        self.runtime.remove_pod(&self.pod).unwrap();
        assert_eq!(self.runtime.inventory().unwrap(), runtime::Inventory::default());
        let directory = self.directory.path().canonicalize().unwrap();
        let mounts = tool("mount", &[]);
        assert!(!mounts.contains(directory.to_str().unwrap()), "{mounts}");
        let rules = tool("rctl", &[]);
        assert!(!rules.contains(&self.pod_jail()), "{rules}");
        eventually("the jail is gone", || !tool("jls", &["-d", "name"]).contains(self.pod.short()));
    }
}

pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    String::from_utf8(Tool::new(program).args(args).run().unwrap().stdout).unwrap()
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn readable(descriptor: &impl AsFd, timeout: Duration) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(timeout).unwrap()).unwrap() == 1
}

pub(crate) fn read_until(output: &mut File, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0u8; 4096];
    while !text.contains(wanted) {
        assert!(readable(output, PATIENCE), "{wanted:?} does not come: {text:?}");
        let count = output.read(&mut chunk).unwrap();
        assert!(count > 0, "the end instead of {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    text
}

/// Puts a program of the host into a root, with its libraries.
pub(crate) fn add_program(root: &Path, program: &str) {
    let list = tool("ldd", &["-f", "%p\\n", program]);
    for file in list.lines().chain([program]).filter(|file| file.starts_with('/')) {
        let target = root.join(file.strip_prefix('/').unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

pub(crate) fn host_mount(source: impl Into<PathBuf>, destination: &str, readonly: bool) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Host(source.into()),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::Private,
    }
}

/// Whether a process of the host has this word in its command line.
pub(crate) fn runs(word: &str) -> bool {
    tool("ps", &["-axww", "-o", "command"]).lines().any(|line| line.contains(word) && !line.contains("ps -axww"))
}
