//! Pods and containers as the kernel knows them: the boundary that the server sees, and the backends behind it.
//!
//! The boundary speaks pods and containers: no system calls, no RPCs. Its calls block: the server makes them on threads that
//! may block, and waits for exits and output on descriptors. Every call may be repeated; each method says what a repeated
//! call does, what happens when the object is missing, and what a failure leaves. Every kernel name is computed from the
//! prefix and an id, and a backend keeps its records (specs, log paths) in its state directory, so that a server that was
//! killed finds everything again by [`Runtime::inventory`].

pub mod conformance;
mod details;
mod error;
pub mod fake;
#[cfg(target_os = "freebsd")]
mod freebsd;
// Its pure half is compiled and tested on any system, where nothing but its tests uses it.
#[allow(dead_code)]
#[cfg(all(test, not(target_os = "freebsd")))]
mod freebsd;
pub mod jail;
#[cfg(target_os = "linux")]
mod linux;
pub mod monitor;
mod platform;
pub mod spec;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use details::{Details, DeviceUsage};
pub use error::Error;
use host::{ContainerId, Need, Place, PodId, Prefix};
pub use platform::open;
use spec::{ContainerSpec, ExecSpec, Identity, PodSpec, Resources, Signal};

/// The settings of a backend.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every kernel name starts with it.
    pub prefix: Prefix,
    /// The backend's directory, lost at a reboot (`/var/run/cellblock/runtime`): specs, sockets, exit records.
    pub state: PathBuf,
    /// Starts the monitors.
    pub workers: host::worker::Workers,
}

/// The kernel's pods and containers.
pub trait Runtime: Send + Sync + 'static {
    /// The backend's name in Status and in the log: `freebsd`, `linux (development)`, `fake`.
    fn name(&self) -> &'static str;

    /// The platforms whose images it can run, the preferred one first, as `os/architecture` in the OCI image specification's
    /// names, or `os(version)/architecture` where images may be too new for the kernel (`freebsd(15.1-RELEASE-p1)/amd64`), as
    /// containerd writes it. FreeBSD has `linux` only while the linuxulator is loaded; the configuration decides whether
    /// it is used.
    fn platforms(&self) -> Vec<String>;

    /// The node's settings and programs that it needs. Only reads; cheap enough for every Status (5 s).
    fn needs(&self) -> Vec<Need>;

    /// Its optional features.
    fn features(&self) -> Features;

    /// Whether the pod's spec can be honoured, as far as that can be told before anything is made. Only reads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::Invalid`], as [`Runtime::create_pod`] gives them.
    fn check_pod(&self, spec: &PodSpec) -> Result<(), Error>;

    /// Whether the container's spec can be honoured, as far as that can be told without its root and the sources of its
    /// mounts, which need not exist yet. Only reads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::Invalid`], as [`Runtime::create_container`] gives them.
    fn check_container(&self, spec: &ContainerSpec) -> Result<(), Error>;

    /// Whether the container can have a rootfs that others have too: its root is read-only, and the rootfs has the place of each
    /// of its mounts and its working directory, so that nothing must be made in it. The sources of the mounts need not exist yet.
    /// Only reads. Never on a backend that gives each container a cheap root of its own.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the pod; [`Error::Invalid`] for the rootfs or a destination.
    fn can_share(&self, _spec: &ContainerSpec, _rootfs: &Path) -> Result<bool, Error> {
        Ok(false)
    }

    /// Creates the pod without its network. With `spare`, a pod made ahead by [`Runtime::create_spare`] becomes this pod and
    /// takes its names; if it cannot, the call fails and the spare stays. Idempotent: an existing pod is kept and its place
    /// returned; a pod that is not whole is created again. After a failure [`Runtime::remove_pod`] removes the parts that were made.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::Invalid`] for a spec that cannot be honoured, before anything is made; any other
    /// error of the kernel.
    fn create_pod(&self, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error>;

    /// Makes a spare: a pod ahead of its request, without its name. None: the backend has no use for spares. Idempotent.
    /// [`Runtime::remove_pod`] removes it.
    ///
    /// # Errors
    /// Any error of the kernel.
    fn create_spare(&self, id: &PodId) -> Result<Option<Place>, Error>;

    /// Loads the rules of the pod's own packet filter, whole or not at all, and returns whether it did: not where there are none,
    /// nor those that are loaded. Called once the pod has its network, and later again: a filter that was unloaded has lost them.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the line of a wrong rule; [`Error::NotFound`] for the pod; [`Error::Unavailable`] while the node
    /// has no packet filter; any other error of the kernel.
    fn load_filter(&self, _id: &PodId) -> Result<bool, Error> {
        Ok(false)
    }

    /// The place of the pod's network.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a pod that is not whole.
    fn place(&self, id: &PodId) -> Result<Place, Error>;

    /// Removes the pod or spare and every container in it, by its id alone. Idempotent; after a failure it is called again.
    /// What only takes time (a dying vnet) may go on in the background, out of the inventory.
    ///
    /// # Errors
    /// Everything that could not be removed, in one error; the rest was tried.
    fn remove_pod(&self, id: &PodId) -> Result<(), Error>;

    /// Those of these pods that have all their kernel objects: the jail, or every namespace and the init. Any other pod was not
    /// made to its end, or lost something. Only reads; cheap enough for every second with 250 pods.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn whole_pods(&self, pods: &[PodId]) -> Result<BTreeSet<PodId>, Error>;

    /// Changes the limits of all containers of the pod together, unless kubelet enforces them itself; None stays as before.
    /// A limit of the pod is the sum of its containers' limits: it never falls on a container without one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unsupported`].
    fn update_pod(&self, id: &PodId, resources: &Resources) -> Result<(), Error>;

    /// Creates the container: its mounts, its directories, its user looked up in its root; nothing runs. Idempotent: an
    /// existing container is kept. After a failure nothing is left, or [`Runtime::remove_container`] removes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field (a user that the image does not have, a mount source that does not exist, a
    /// destination that leaves the root); [`Error::Unsupported`]; [`Error::NotFound`] for the pod.
    fn create_container(&self, spec: &ContainerSpec) -> Result<Identity, Error>;

    /// Starts the container's monitor and its first process. Returns when the process runs its program. After a failure
    /// nothing runs and the state is [`ContainerState::Created`] as before; the caller may count that as its end.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it was started before; [`Error::Command`] for a program that does not
    /// exist or cannot be run.
    fn start_container(&self, id: &ContainerId) -> Result<Started, Error>;

    /// Sends a signal to the container's first process; to one that does not run, nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a signal that the kernel does not have.
    fn signal_container(&self, id: &ContainerId, signal: &Signal) -> Result<(), Error>;

    /// Kills every process of the container; when it returns, none is left and the exit is recorded. Idempotent.
    ///
    /// # Errors
    /// A process that does not die within ten seconds.
    fn kill_container(&self, id: &ContainerId) -> Result<(), Error>;

    /// Removes the container, running or not: its processes, monitor, mounts and records. Its log and its rootfs stay, the
    /// latter without this crate's mounts. Idempotent.
    ///
    /// # Errors
    /// Everything that could not be removed, in one error; the rest was tried.
    fn remove_container(&self, id: &ContainerId) -> Result<(), Error>;

    /// The container's state now.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn container_state(&self, id: &ContainerId) -> Result<ContainerState, Error>;

    /// A descriptor to poll: it reads as end-of-file once the container has exited, and then [`Runtime::container_state`]
    /// has the exit.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] for one that was never started.
    fn exit_descriptor(&self, id: &ContainerId) -> Result<OwnedFd, Error>;

    /// Changes the container's limits; None stays as before.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unsupported`].
    fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error>;

    /// Closes the container's log and opens its path again; no line is lost.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn reopen_log(&self, id: &ContainerId) -> Result<(), Error>;

    /// Starts a process in a running container. It lives as long as the [`Session`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running; [`Error::Command`] for a program that does not exist.
    fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, Error>;

    /// Attaches to the standard streams of the container's first process: from now on the session gets its output too, every
    /// byte once. A session that does not read blocks the container as a full pipe does, and is cut off after ten seconds
    /// without progress. Only with `stdin` does it get the input: a client that only watches must not end the input of a
    /// process that reads once.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Session, Error>;

    /// A TCP connection to a port on the loopback of the pod: 127.0.0.1 first, then ::1.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`] when nothing listens.
    fn connect(&self, id: &PodId, port: u16) -> Result<OwnedFd, Error>;

    /// A pod (`container` is None) or one of its containers as the system's own tools name it: its jail on FreeBSD; on Linux the
    /// pin of a pod's network namespace, and runc's name and the process id of a container. None: the kernel has no such object
    /// now; a container that does not run has none. Only reads.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn kernel_object(&self, pod: &PodId, container: Option<&ContainerId>) -> Result<Option<KernelObject>, Error>;

    /// What the backend made of the container's spec, for an administrator: on Linux runc's config.json, on FreeBSD the
    /// parameters of its jail. Only reads.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn describe_container(&self, id: &ContainerId) -> Result<serde_json::Value, Error>;

    /// The container's usage now.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn container_usage(&self, id: &ContainerId) -> Result<Usage, Error>;

    /// The details of the container's usage now, for metrics.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn container_details(&self, id: &ContainerId) -> Result<Details, Error>;

    /// Everything that the kernel and the state directory hold under this server's prefix.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn inventory(&self) -> Result<Inventory, Error>;
}

/// Optional features of a backend, as CRI's Status reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Mounts can be read-only recursively.
    pub recursive_read_only_mounts: bool,
    /// Supplemental groups can be strict.
    pub supplemental_groups_policy: bool,
}

/// The start of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The pid of its first process on the host.
    pub pid: u32,
    /// The time.
    pub at: SystemTime,
}

/// The state of a container, as the kernel and its monitor have it.
///
/// ```text
/// create_container ──► Created ──start_container──► Running ──the first process ends──► Exited
///                       ▲    │ fails                         kill_container,
///                       └────┘                               or its monitor was killed
/// ```
///
/// [`Runtime::remove_container`] leads out of every state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Never started.
    Created,
    /// Its first process runs.
    Running(Started),
    /// Its first process has ended, and nothing of it runs.
    Exited {
        /// Its start.
        started: Started,
        /// Its end.
        exit: Exit,
    },
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The time.
    pub at: SystemTime,
    /// The exit code of its first process; after a signal 128 plus its number, as shells count.
    pub code: i32,
    /// It was killed for using more memory than its limit.
    pub out_of_memory: bool,
    /// More for a person (`the container's monitor was killed: its exit code is not known`).
    pub message: String,
}

/// A running process and the server's ends of its streams.
#[derive(Debug)]
pub struct Session {
    /// Its standard input; closing it is end-of-file. None: it has none.
    pub stdin: Option<OwnedFd>,
    /// Its standard output, or all output of its terminal. The end of a terminal may read as EIO (Linux, once the other side
    /// is closed everywhere).
    pub stdout: Option<OwnedFd>,
    /// Its standard error; None with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Controls the process.
    pub control: Box<dyn Control>,
}

/// The control of an executed process or of an attached client. Dropping it kills an executed process with all its
/// descendants, and detaches a client.
pub trait Control: Send + Sync + std::fmt::Debug {
    /// Changes the size of the terminal, if there is one.
    ///
    /// # Errors
    /// The process has ended.
    fn resize(&self, columns: u16, rows: u16) -> Result<(), Error>;

    /// A descriptor that becomes readable when the process has ended.
    ///
    /// # Errors
    /// No descriptor is left.
    fn exit_descriptor(&self) -> Result<OwnedFd, Error>;

    /// Waits at most `timeout` for the end of the process and returns its exit code (after a signal 128 plus its number);
    /// None: it still runs.
    ///
    /// # Errors
    /// Its exit code is not known.
    fn wait(&self, timeout: Duration) -> Result<Option<i32>, Error>;

    /// Kills an executed process with all its descendants and returns when none is left, or detaches a client.
    ///
    /// # Errors
    /// A process that does not die.
    fn kill(&self) -> Result<(), Error>;
}

/// What the system's own tools call a pod or a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelObject {
    /// The jail's name; a path or a name on Linux.
    pub name: String,
    /// The jail's number, or a process id; None: it has none.
    pub number: Option<u32>,
}

/// The usage of a container. None: the kernel does not count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time since its start, in nanoseconds.
    pub cpu_nanoseconds: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that cannot be reclaimed at once, in bytes.
    pub working_set_bytes: Option<u64>,
    /// Resident memory, in bytes.
    pub rss_bytes: Option<u64>,
    /// The limit on its memory, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults since its start.
    pub page_faults: Option<u64>,
    /// Page faults that had to read.
    pub major_page_faults: Option<u64>,
    /// Swap in use, in bytes.
    pub swap_bytes: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
}

/// Everything under one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// The pods, whole or not, without spares.
    pub pods: Vec<PodId>,
    /// The spares.
    pub spares: Vec<PodId>,
    /// The containers, with their pods and states.
    pub containers: BTreeMap<ContainerId, (PodId, ContainerState)>,
    /// Objects with the prefix that belong to no known pod or container (an unreadable directory, a jail whose name has no
    /// id), for the log: nobody removes them.
    pub unknown: Vec<String>,
}
