//! The behaviour of every backend as one suite, which the fake, Linux and FreeBSD pass. A backend's test makes a [`Subject`]
//! and calls [`run`]; each check makes its own pods and removes them, and leaves the inventory unchanged.

mod containers;
mod pods;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{ContainerId, PodId};

use crate::spec::{ContainerSpec, NameOrId, PidScope, PodSpec, Process, Profile, Resources, Scope, Security, User};
use crate::{ContainerState, Exit, Runtime};

/// The limit for what happens at once on an idle machine; an emulated one is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A backend and its fixtures.
pub struct Subject {
    /// Opens the backend again on the same kernel and state, as a restarted server does.
    pub open: Box<dyn Fn() -> Arc<dyn Runtime>>,
    /// Makes a rootfs with the programs.
    pub rootfs: Box<dyn Fn() -> PathBuf>,
    /// A directory for logs.
    pub scratch: PathBuf,
    /// The command lines of the programs.
    pub programs: Programs,
    /// Removes something that the pod needs (its jail, a namespace) behind the backend's back.
    pub lose: Box<dyn Fn(&PodId)>,
    /// Damages the backend's record of the container, if it has one on disk.
    pub damage: Box<dyn Fn(&ContainerId)>,
}

/// The command lines of the suite's programs in this backend's rootfs.
pub struct Programs {
    /// Runs until it is killed; dies of TERM at once.
    pub block: Vec<String>,
    /// Copies its standard input to its standard output.
    pub copy: Vec<String>,
    /// Ends with this exit code.
    pub exit: fn(u8) -> Vec<String>,
    /// Prints a line and ends.
    pub print: fn(&str) -> Vec<String>,
}

impl Programs {
    /// The programs of a rootfs that has /bin/sh, cat and sleep.
    #[must_use]
    pub fn of_a_shell() -> Self {
        let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
        Self {
            block: shell("trap 'exit 143' TERM; while :; do sleep 1 & wait $!; done".to_owned()),
            copy: vec!["cat".to_owned()],
            exit: |code| vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("exit {code}")],
            print: |text| vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("echo '{text}'")],
        }
    }

    /// The programs of the fake.
    #[must_use]
    pub fn of_the_fake() -> Self {
        Self {
            block: vec!["block".to_owned()],
            copy: vec!["copy".to_owned()],
            exit: |code| vec!["exit".to_owned(), code.to_string()],
            print: |text| vec!["print".to_owned(), text.to_owned()],
        }
    }
}

/// Runs every check, and prints its name and time.
///
/// # Panics
/// Where the backend breaks the contract.
pub fn run(subject: &Subject) {
    let before = (subject.open)().inventory().expect("the inventory can be taken");
    let checks = pods::CHECKS.iter().chain(containers::CHECKS).chain(sessions::CHECKS);
    for (name, check) in checks {
        let started = Instant::now();
        check(subject);
        println!("conformance: {name}: ok ({} ms)", started.elapsed().as_millis());
        let after = (subject.open)().inventory().expect("the inventory can be taken");
        assert_eq!(before, after, "the inventory after {name}");
    }
}

/// A check by its name.
type Check = (&'static str, fn(&Subject));

/// A check's pod and its backend.
struct Bench<'a> {
    subject: &'a Subject,
    runtime: Arc<dyn Runtime>,
    pod: PodId,
}

impl<'a> Bench<'a> {
    fn new(subject: &'a Subject) -> Self {
        let runtime = (subject.open)();
        let spec = pod_spec();
        runtime.create_pod(&spec, None).expect("a pod is created");
        Self { subject, runtime, pod: spec.id }
    }

    fn spec(&self, args: &[String]) -> ContainerSpec {
        let id = ContainerId::random();
        let log_path = Some(self.subject.scratch.join(format!("{}.log", id.short())));
        container_spec(id, &self.pod, (self.subject.rootfs)(), args, log_path)
    }

    fn create(&self, args: &[String]) -> ContainerSpec {
        let spec = self.spec(args);
        self.runtime.create_container(&spec).expect("a container is created");
        spec
    }

    fn start(&self, args: &[String]) -> ContainerSpec {
        let spec = self.create(args);
        self.runtime.start_container(&spec.id).expect("a container is started");
        spec
    }

    fn wait(&self, id: &ContainerId) -> Exit {
        let descriptor = self.runtime.exit_descriptor(id).expect("a started container has an exit");
        assert!(readable(&descriptor, PATIENCE), "the container ends in time");
        self.exited(id)
    }

    fn exited(&self, id: &ContainerId) -> Exit {
        match self.runtime.container_state(id).expect("the container is known") {
            ContainerState::Exited { exit, .. } => exit,
            other => panic!("the container has exited, but is {other:?}"),
        }
    }

    fn log(&self, spec: &ContainerSpec) -> String {
        std::fs::read_to_string(spec.log_path.as_ref().expect("the suite's containers have logs")).unwrap_or_default()
    }

    fn remove(self) {
        self.runtime.remove_pod(&self.pod).expect("the pod is removed");
    }
}

/// Whether a descriptor becomes readable in time.
///
/// # Panics
/// It cannot be polled.
pub fn readable(descriptor: &impl AsFd, timeout: Duration) -> bool {
    host::wait::readable(descriptor, timeout).expect("a descriptor can be polled")
}

/// Waits until a condition holds.
///
/// # Panics
/// It does not within [`PATIENCE`].
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The suite's pod, a base for other tests' pods.
#[must_use]
pub fn pod_spec() -> PodSpec {
    PodSpec {
        id: PodId::random(),
        title: "suite/pod".to_owned(),
        hostname: Some("conformance".to_owned()),
        network: Scope::Pod,
        ipc: Scope::Pod,
        pid: PidScope::Container,
        resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
        sysctls: BTreeMap::new(),
        cgroup_parent: None,
        privileged: false,
        resources: Resources::default(),
        jail: BTreeSet::new(),
        filter: None,
    }
}

/// The suite's container: root's, with nothing special.
#[must_use]
pub fn container_spec(
    id: ContainerId,
    pod: &PodId,
    rootfs: PathBuf,
    args: &[String],
    log_path: Option<PathBuf>,
) -> ContainerSpec {
    ContainerSpec {
        id,
        pod: pod.clone(),
        title: "suite/pod/container".to_owned(),
        rootfs,
        readonly_rootfs: false,
        shared_rootfs: false,
        for_linux: false,
        process: Process {
            args: args.to_vec(),
            env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin:/rescue".to_owned())],
            cwd: "/".into(),
            tty: false,
            user: User {
                user: NameOrId::Id(0),
                group: Some(NameOrId::Id(0)),
                supplemental: Vec::new(),
                merge_image_groups: false,
            },
        },
        pid: PidScope::Container,
        mounts: Vec::new(),
        devices: Vec::new(),
        resources: Resources::default(),
        security: security(),
        jail: BTreeMap::new(),
        stdin: false,
        stdin_once: false,
        log_path,
    }
}

fn security() -> Security {
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
