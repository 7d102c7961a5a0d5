//! The specs of pods, containers and executed processes, as plain data. They know neither CRI nor jails nor namespaces: a
//! backend refuses a spec that it cannot honour with [`crate::Error::Unsupported`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use host::{ContainerId, PodId};
use serde::{Deserialize, Serialize};

/// Which network, IPC objects or processes are visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The pod's.
    Pod,
    /// The host's.
    Host,
}

/// Which processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidScope {
    /// The processes of all containers of the pod.
    Pod,
    /// Its own.
    Container,
    /// The host's.
    Host,
    /// The processes of another container of the pod (for an ephemeral debug container).
    Target(ContainerId),
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its id.
    pub id: PodId,
    /// What an administrator calls it, `namespace/name`; empty: it was made by a server that did not tell.
    #[serde(default)]
    pub title: String,
    /// Its host name; None: the host's.
    pub hostname: Option<String>,
    /// Its network.
    pub network: Scope,
    /// Its System V and POSIX IPC objects.
    pub ipc: Scope,
    /// The processes that its containers see by default; Target is refused.
    pub pid: PidScope,
    /// The contents of its containers' /etc/resolv.conf; None: the host's file.
    pub resolv_conf: Option<String>,
    /// Kernel parameters of the pod, by their full name.
    pub sysctls: BTreeMap<String, String>,
    /// The parent cgroup of its containers (Linux); None: the backend's.
    pub cgroup_parent: Option<String>,
    /// Whether one of its containers may be privileged: a jail gets its rights when it is created.
    pub privileged: bool,
    /// The limits of all its containers together.
    pub resources: Resources,
    /// The names of all jail parameters that its containers ask for (FreeBSD): a jail limits its children.
    #[serde(default)]
    pub jail: BTreeSet<String>,
    /// The rules of its own packet filter (FreeBSD), which the node's is apart from.
    #[serde(default)]
    pub filter: Option<Filter>,
}

/// Rules for pf(4) in a pod's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// What errors call them.
    pub name: String,
    /// Their text (pf.conf(5)).
    pub rules: String,
}

impl PodSpec {
    /// The same pod with a host name: a pod on its own network without one gets the node's current name, as in containerd. A
    /// change of it inside the pod does not rename the node.
    ///
    /// # Errors
    /// gethostname(3) fails.
    pub fn named(&self) -> io::Result<Self> {
        let mut spec = self.clone();
        if spec.hostname.is_none() && spec.network == Scope::Pod {
            spec.hostname = Some(nix::unistd::gethostname()?.to_string_lossy().into_owned());
        }
        Ok(spec)
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// What an administrator calls it, `namespace/pod/name`; empty: it was made by a server that did not tell.
    #[serde(default)]
    pub title: String,
    /// Its rootfs, prepared and mounted by the image crate.
    pub rootfs: PathBuf,
    /// Whether its root is read-only.
    pub readonly_rootfs: bool,
    /// Whether other containers have the same rootfs: nothing is made in it. Only if [`crate::Runtime::can_share`] says so.
    #[serde(default)]
    pub shared_rootfs: bool,
    /// Whether its programs are Linux programs, which FreeBSD runs in the linuxulator.
    #[serde(default)]
    pub for_linux: bool,
    /// Its first process.
    pub process: Process,
    /// The processes that it sees.
    pub pid: PidScope,
    /// The mounts in its root, in order.
    pub mounts: Vec<Mount>,
    /// The device nodes of the host that it sees.
    pub devices: Vec<Device>,
    /// Its limits.
    pub resources: Resources,
    /// Its rights.
    pub security: Security,
    /// Parameters of its jail by name (`allow.mlock`, FreeBSD), over those that the backend chooses.
    #[serde(default)]
    pub jail: BTreeMap<String, String>,
    /// Whether its standard input stays open for attach.
    pub stdin: bool,
    /// Whether its standard input is closed for good once the first attached client hangs up.
    pub stdin_once: bool,
    /// Its log file, in CRI's format; None: its output is dropped.
    pub log_path: Option<PathBuf>,
}

/// The first process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments; the container's PATH finds a program without a slash.
    pub args: Vec<String>,
    /// The environment, complete and in order.
    pub env: Vec<(String, String)>,
    /// The working directory, created if it does not exist.
    pub cwd: PathBuf,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Its user and groups.
    pub user: User,
}

/// The user of a process, before the image's passwd and group are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user, by number or by name.
    pub user: NameOrId,
    /// The primary group; None: the user's in the image's passwd, or 0.
    pub group: Option<NameOrId>,
    /// Supplemental groups.
    pub supplemental: Vec<u32>,
    /// Whether the groups that the image's group file gives the user are added to `supplemental` (CRI's Merge) or not (Strict).
    pub merge_image_groups: bool,
}

/// A user or a group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameOrId {
    /// By number.
    Id(u32),
    /// By name, from the image's passwd or group.
    Name(String),
}

/// The user and groups of a process, after the image's files were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, sorted, with the primary one.
    pub groups: Vec<u32>,
}

/// A mount in a container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The absolute destination in the container. It is resolved inside the root and created if it does not exist.
    pub destination: PathBuf,
    /// The source.
    pub source: MountSource,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Whether the mounts below the source are read-only too (with `readonly`).
    pub recursive_readonly: bool,
    /// Whether later mounts on one side appear on the other.
    pub propagation: Propagation,
    /// What its files may not be used for.
    #[serde(default)]
    pub options: MountOptions,
}

/// What the files of a mount may not be used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// They cannot be executed.
    pub noexec: bool,
    /// Their set-user-id and set-group-id bits do not count.
    pub nosuid: bool,
    /// Device nodes among them cannot be opened.
    pub nodev: bool,
}

/// The depth of a destination. Mounts are made in its order, those of equal depth in the caller's: a mount on /m after one on
/// /m/n would hide it.
pub(crate) fn depth(destination: &Path) -> usize {
    destination.components().fold(0, |depth, part| match part {
        Component::Normal(_) => depth + 1,
        Component::ParentDir => depth.saturating_sub(1),
        _ => depth,
    })
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A directory or file of the host. It must exist; its symbolic links are followed.
    Host(PathBuf),
    /// A new file system in memory.
    Tmpfs {
        /// Its size, in bytes; None: the kernel's default.
        size: Option<u64>,
    },
}

/// CRI's mount propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// None.
    Private,
    /// Mounts made on the host appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host.
    pub source: PathBuf,
    /// Its path in the container.
    pub destination: PathBuf,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
    /// Whether it may be made with mknod.
    pub mknod: bool,
}

/// The limits of a container or a pod. None or an empty text: no limit, or in an update as before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU time per `cpu_period`, in microseconds; -1: no limit.
    pub cpu_quota: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period: Option<u64>,
    /// The relative weight (1024 is one CPU).
    pub cpu_shares: Option<u64>,
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, in bytes (as CRI's memory_swap_limit_in_bytes).
    pub memory_swap: Option<i64>,
    /// The OOM killer's score adjustment, -1000 to 1000 (Linux).
    pub oom_score_adj: Option<i32>,
    /// The CPUs it may run on: `0-3,6`.
    pub cpuset_cpus: String,
    /// The memory nodes that it may use.
    pub cpuset_mems: String,
    /// The number of processes; `u64::MAX`: no limit, in an update too.
    pub pids: Option<u64>,
    /// Huge pages by size (`2MB`), in bytes (Linux).
    pub hugepages: BTreeMap<String, u64>,
    /// cgroup v2 files by name (Linux).
    pub unified: BTreeMap<String, String>,
    /// Other limits, by their resource in rctl(8) (FreeBSD): `readbps`.
    #[serde(default)]
    pub rctl: BTreeMap<String, u64>,
}

/// The rights of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Whether it has all rights that the pod allows.
    pub privileged: bool,
    /// Whether set-user-id programs gain no rights (PROC_NO_NEW_PRIVS, PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// Capabilities added to the default set, without `CAP_`; `ALL`: every one.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped from the default set, likewise, before the others are added.
    pub drop_capabilities: Vec<String>,
    /// Ambient capabilities, which survive an exec without file capabilities (Linux).
    pub ambient_capabilities: Vec<String>,
    /// Paths that read as empty.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that are read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// The system call filter.
    pub seccomp: Profile,
    /// The AppArmor profile.
    pub apparmor: Profile,
}

/// A security profile of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The backend's default, if it has one.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile of the node: a file (seccomp) or a name (AppArmor).
    Localhost(String),
}

/// A process to execute in a running container, with the container's user, environment and working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it has a standard input.
    pub stdin: bool,
}

/// A signal by its name in capitals without `SIG` (`TERM`, `RTMIN+3`): the numbers differ between kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(pub String);

impl Signal {
    /// SIGKILL.
    #[must_use]
    pub fn kill() -> Self {
        Self("KILL".to_owned())
    }

    /// SIGTERM, which stops a container unless it or its image names another signal.
    #[must_use]
    pub fn term() -> Self {
        Self("TERM".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::depth;

    #[test]
    fn the_depth_of_a_destination_is_that_of_the_directories_to_it() {
        for (destination, wanted) in [("/", 0), ("/m", 1), ("/m/n", 2), ("/m//n/./", 2), ("/m/n/../o", 2), ("/../m", 1)]
        {
            assert_eq!(depth(Path::new(destination)), wanted, "{destination}");
        }
    }
}
