//! Pods and containers as the kernel knows them: the boundary that the server sees, and the backends behind it.
//!
//! The boundary speaks pods and containers: no system call, no RPC. All of it is blocking: the server calls it on threads
//! that may block, and waits for exits and output on descriptors. Every call may be repeated; each method says what it
//! does then, when the object is missing, and when it fails half way. Every kernel name is computed from the prefix and an
//! id, and what a backend must remember (a pod's and a container's spec, a log's path) it keeps in its own state directory,
//! so that a server that was killed finds everything again by [`Runtime::inventory`].

pub mod conformance;
mod error;
pub mod fake;
#[cfg(target_os = "freebsd")]
mod freebsd;
// Its pure half is compiled and tested on any system, where nothing but its tests uses it.
#[allow(dead_code)]
#[cfg(all(test, not(target_os = "freebsd")))]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
pub mod monitor;
mod platform;
pub mod spec;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

pub use error::Error;
use host::{ContainerId, Need, Place, PodId, Prefix};
pub use platform::open;
use spec::{ContainerSpec, ExecSpec, Identity, PodSpec, Resources, Signal};

/// What every backend is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every kernel name starts with.
    pub prefix: Prefix,
    /// A directory of the backend's own, lost at a reboot (`/var/run/cellblock/runtime`): specs, sockets, exit records.
    pub state: PathBuf,
    /// How the monitor is started.
    pub workers: host::worker::Workers,
}

/// The kernel's pods and containers.
pub trait Runtime: Send + Sync + 'static {
    /// What Status and the log call this backend: `freebsd`, `linux (development)`, `fake`.
    fn name(&self) -> &'static str;

    /// The platforms whose images it can run, the preferred one first, as `os/architecture` in the words of the OCI image
    /// specification (`freebsd/amd64`). `linux` on FreeBSD appears only where the linuxulator is loaded; whether it is used
    /// is the configuration's word.
    fn platforms(&self) -> Vec<String>;

    /// What it needs of the node, and whether it holds. Reads only; cheap enough for every Status (5 s).
    fn needs(&self) -> Vec<Need>;

    /// Which optional features it has.
    fn features(&self) -> Features;

    /// Makes the pod: everything but its network. With `spare`, a pod made ahead by [`Runtime::create_spare`] becomes this
    /// pod and takes its names; where that cannot be, the call fails and the spare is still there.
    /// Twice: the pod that is there is kept, its place returned; one that is not whole is made anew. Failing half way:
    /// [`Runtime::remove_pod`] removes what was made.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::Invalid`] for a spec that cannot be honoured, before anything was made; any other
    /// for a kernel that says no.
    fn create_pod(&self, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error>;

    /// Makes a pod ahead, with no name of its own yet; None: the backend has no use for spares. Twice: kept.
    /// [`Runtime::remove_pod`] removes it.
    ///
    /// # Errors
    /// The kernel says no.
    fn create_spare(&self, id: &PodId) -> Result<Option<Place>, Error>;

    /// Where the pod's network is.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a pod that is not whole.
    fn place(&self, id: &PodId) -> Result<Place, Error>;

    /// Removes the pod and every container still in it, by its id alone. Missing: done already. It may fail half way, and
    /// is then called again. What only takes time (a dying vnet) may go on in the background, out of the inventory.
    ///
    /// # Errors
    /// What could not be removed; the rest was tried.
    fn remove_pod(&self, id: &PodId) -> Result<(), Error>;

    /// The pods whose kernel objects are all there: the jail, or every namespace and the init that they were made with. A pod
    /// that is missing here was never made to its end, or somebody else took something of it. Reads only; cheap enough for
    /// every second with 250 pods.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn whole_pods(&self) -> Result<BTreeSet<PodId>, Error>;

    /// Changes what all containers of the pod together may use, where nobody else sees to that; what is None stays.
    /// A limit of the pod is the sum of those that its containers have: it never falls on a container that has none.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unsupported`].
    fn update_pod(&self, id: &PodId, resources: &Resources) -> Result<(), Error>;

    /// Makes the container ready to be started: its mounts, its directories, its user looked up in its own root; nothing
    /// runs. Twice: the container that is there is kept. Failing half way: nothing of it is left, or
    /// [`Runtime::remove_container`] removes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field (a user that the image does not have, a mount source that does not exist, a
    /// destination that leaves the root); [`Error::Unsupported`]; [`Error::NotFound`] for the pod.
    fn create_container(&self, spec: &ContainerSpec) -> Result<Identity, Error>;

    /// Starts the container's first process and its monitor. Returns when the process runs the program that was asked for.
    /// Twice: [`Error::Conflict`]. Failing: nothing of it runs or is left but what [`Runtime::create_container`] made, and the
    /// state is [`ContainerState::Created`] as before; that it counts as ended then is the caller's word.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Command`] for a program that is not there or cannot be run.
    fn start_container(&self, id: &ContainerId) -> Result<Started, Error>;

    /// Sends a signal to the container's first process. Not running: done already.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a signal that the kernel does not have.
    fn signal_container(&self, id: &ContainerId, signal: &Signal) -> Result<(), Error>;

    /// Kills every process of the container; when it returns none is left and the exit is recorded. Not running: done
    /// already.
    ///
    /// # Errors
    /// A process that does not die within ten seconds.
    fn kill_container(&self, id: &ContainerId) -> Result<(), Error>;

    /// Removes the container, running or not: its processes, mounts, monitor, records; not its log, not its root file
    /// system, which is unmounted of everything that this crate mounted in it. Missing: done already.
    ///
    /// # Errors
    /// What could not be removed; the rest was tried.
    fn remove_container(&self, id: &ContainerId) -> Result<(), Error>;

    /// What the kernel knows of the container now.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn container_state(&self, id: &ContainerId) -> Result<ContainerState, Error>;

    /// A descriptor that reads as end-of-file once the container has exited (at once when it already has) and
    /// [`Runtime::container_state`] tells how. It can be polled; nothing is ever read from it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] for one that was never started.
    fn exit_descriptor(&self, id: &ContainerId) -> Result<OwnedFd, Error>;

    /// Changes what the container may use; what is None stays.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unsupported`].
    fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error>;

    /// Closes the container's log and opens its path anew, losing no line.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn reopen_log(&self, id: &ContainerId) -> Result<(), Error>;

    /// Starts a process in a running container. It lives as long as the [`Session`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running; [`Error::Command`] for a program that is not there.
    fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, Error>;

    /// Joins the standard streams of the container's first process: from now on its output is copied to the session too,
    /// nothing lost and nothing repeated between two sessions' lifetimes; a session that does not read holds the container
    /// up only as a pipe does, and is cut off once it stands still for ten seconds. Only with `stdin` does it join the
    /// input: a client that only watches must not, when it goes, end the input of a process that reads once.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Session, Error>;

    /// A TCP connection to a port on the loopback of the pod: 127.0.0.1 first, then ::1.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`] when nothing listens.
    fn connect(&self, id: &PodId, port: u16) -> Result<OwnedFd, Error>;

    /// What the container uses now.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not running.
    fn container_usage(&self, id: &ContainerId) -> Result<Usage, Error>;

    /// Everything that the kernel holds under this server's prefix.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn inventory(&self) -> Result<Inventory, Error>;
}

/// Optional features of a backend, as CRI's Status reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Mounts can be read-only with all below them.
    pub recursive_read_only_mounts: bool,
    /// Supplemental groups can be strict.
    pub supplemental_groups_policy: bool,
}

/// A container that has just been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The host's number of its first process.
    pub pid: u32,
    /// When.
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
        /// When it was started.
        started: Started,
        /// How it ended.
        exit: Exit,
    },
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// When.
    pub at: SystemTime,
    /// The exit code of its first process; killed by a signal: 128 and the signal's number, as shells count.
    pub code: i32,
    /// It was killed because it used more memory than it may.
    pub out_of_memory: bool,
    /// What else is known, for a person (`the monitor was killed; the exit code is not known`).
    pub message: String,
}

/// A running process and its streams, as seen from the server.
#[derive(Debug)]
pub struct Session {
    /// What the process reads; closing it is end-of-file. None: it has no standard input.
    pub stdin: Option<OwnedFd>,
    /// What it writes; of a terminal: everything that the terminal shows. The end of a terminal may read as EIO, as Linux
    /// has it once nothing holds the other side.
    pub stdout: Option<OwnedFd>,
    /// What it writes to its standard error; None with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Its control.
    pub control: Box<dyn Control>,
}

/// The control of a process that is executed, or of an attached client. Dropping it ends an exec: its whole tree is
/// killed; an attached client is only let go.
pub trait Control: Send + Sync + std::fmt::Debug {
    /// Changes the size of the terminal; without one: nothing.
    ///
    /// # Errors
    /// The process is gone.
    fn resize(&self, columns: u16, rows: u16) -> Result<(), Error>;

    /// A descriptor that becomes readable when the process has ended.
    ///
    /// # Errors
    /// No more descriptors.
    fn exit_descriptor(&self) -> Result<OwnedFd, Error>;

    /// Waits, at most `timeout`, for the end of the process, and returns its exit code (a signal counts as 128 and its
    /// number); None: it runs on.
    ///
    /// # Errors
    /// It is not known how it ended.
    fn wait(&self, timeout: Duration) -> Result<Option<i32>, Error>;

    /// Kills an executed process and everything that it started, and returns when none of them is left; of an attached
    /// client: lets it go.
    ///
    /// # Errors
    /// A process that does not die.
    fn kill(&self) -> Result<(), Error>;
}

/// What a container uses. None: the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time since it was made, in nanoseconds.
    pub cpu_nanoseconds: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that cannot be reclaimed at once, in bytes.
    pub working_set_bytes: Option<u64>,
    /// Resident memory, in bytes.
    pub rss_bytes: Option<u64>,
    /// The limit on its memory, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults since it was made.
    pub page_faults: Option<u64>,
    /// Page faults that had to read.
    pub major_page_faults: Option<u64>,
    /// Swap in use, in bytes.
    pub swap_bytes: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
}

/// Everything that the kernel holds under one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// The pods, whole or not, spares not counted.
    pub pods: Vec<PodId>,
    /// The spares.
    pub spares: Vec<PodId>,
    /// The containers, with their pods and states.
    pub containers: BTreeMap<ContainerId, (PodId, ContainerState)>,
    /// What carries the prefix and belongs to nothing that is known (a directory that cannot be read, a jail with a name
    /// that no id gives), for the log: it is left alone.
    pub unknown: Vec<String>,
}
