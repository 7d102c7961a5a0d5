//! What every backend does, as one suite: the fake, Linux and FreeBSD pass it. A backend's test makes a [`Subject`] and
//! calls [`run`]; each check makes pods of its own and removes them, and the inventory is empty afterwards.

mod containers;
mod pods;
mod sessions;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{ContainerId, PodId};

use crate::spec::{ContainerSpec, NameOrId, PidScope, PodSpec, Process, Profile, Resources, Scope, Security, User};
use crate::{ContainerState, Exit, Runtime};

/// How long a check waits for something that happens at once on a healthy machine, in an emulated one too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A backend, and what the suite needs to use it.
pub struct Subject {
    /// Makes the backend anew on the same kernel and the same state, as a server does that was started again.
    pub open: Box<dyn Fn() -> Arc<dyn Runtime>>,
    /// Makes a root for a container with the programs in it.
    pub rootfs: Box<dyn Fn() -> PathBuf>,
    /// A directory for logs.
    pub scratch: PathBuf,
    /// The words that start the programs.
    pub programs: Programs,
    /// Takes something from a pod that it cannot be without, behind the backend's back: its jail, a namespace.
    pub lose: Box<dyn Fn(&PodId)>,
}

/// How the suite's programs are started in this backend's roots.
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
    /// The programs of a root that has /bin/sh, cat and sleep.
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

    /// The words of the fake.
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

/// Runs every check. Each prints its name first, so that the last line says where a backend failed.
///
/// # Panics
/// Where the backend does not do what the contract says.
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

/// A pod that a check made, and the backend it is on.
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

/// Waits until something holds.
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

/// A pod as the suite wants it, and other tests that change a field or two.
#[must_use]
pub fn pod_spec() -> PodSpec {
    PodSpec {
        id: PodId::random(),
        hostname: Some("conformance".to_owned()),
        network: Scope::Pod,
        ipc: Scope::Pod,
        pid: PidScope::Container,
        resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
        sysctls: BTreeMap::new(),
        cgroup_parent: None,
        privileged: false,
        resources: Resources::default(),
    }
}

/// A container as the suite wants it: root's, with nothing special.
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
        rootfs,
        readonly_rootfs: false,
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
