//! What is wanted of the kernel, as plain data: a pod, a container, a process to execute. Nothing here knows CRI, and
//! nothing here knows jails or namespaces: what a backend cannot give, it refuses with [`crate::Error::Unsupported`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use host::{ContainerId, PodId};
use serde::{Deserialize, Serialize};

/// Whose network, IPC objects or processes are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The pod's own.
    Pod,
    /// The host's.
    Host,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidScope {
    /// Those of all containers of the pod.
    Pod,
    /// Only its own.
    Container,
    /// The host's.
    Host,
    /// Those of another container of the pod (an ephemeral debug container).
    Target(ContainerId),
}

/// A pod that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its id.
    pub id: PodId,
    /// Its host name; None: the host's.
    pub hostname: Option<String>,
    /// Whose network it is on.
    pub network: Scope,
    /// Whose System V and POSIX IPC objects it sees.
    pub ipc: Scope,
    /// Whose processes its containers see by default; Target is refused.
    pub pid: PidScope,
    /// The contents of its containers' /etc/resolv.conf; None: the host's file.
    pub resolv_conf: Option<String>,
    /// Kernel parameters of the pod, by their full name.
    pub sysctls: BTreeMap<String, String>,
    /// The cgroup below which its containers are put (Linux); None: the backend's own.
    pub cgroup_parent: Option<String>,
    /// Whether one of its containers may be privileged: a jail must be given its rights when it is made.
    pub privileged: bool,
    /// What all its containers together may use.
    pub resources: Resources,
}

impl PodSpec {
    /// The same pod with a host name: one on its own network that has none gets the node's as it is now, as containerd does. Its
    /// host name is then its own, and whoever changes it inside does not rename the node.
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

/// A container that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its id.
    pub id: ContainerId,
    /// The pod it runs in.
    pub pod: PodId,
    /// Its root directory, prepared and mounted by the image crate.
    pub rootfs: PathBuf,
    /// Whether the container may not write to its root.
    pub readonly_rootfs: bool,
    /// Whether its programs are made for Linux: FreeBSD runs them under the linuxulator.
    #[serde(default)]
    pub for_linux: bool,
    /// What its first process is.
    pub process: Process,
    /// Whose processes it sees.
    pub pid: PidScope,
    /// What is mounted into its root, in order.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host that it sees.
    pub devices: Vec<Device>,
    /// What it may use.
    pub resources: Resources,
    /// What it may do.
    pub security: Security,
    /// Whether its standard input stays open for attach.
    pub stdin: bool,
    /// Whether its standard input is closed for good when the first attached client hangs up.
    pub stdin_once: bool,
    /// The file of its log, in CRI's format; None: its output is not kept.
    pub log_path: Option<PathBuf>,
}

/// A process to be started in a container: its first, or one that is executed later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments; a program without a slash is looked up in PATH inside the container.
    pub args: Vec<String>,
    /// The environment, complete and in order.
    pub env: Vec<(String, String)>,
    /// The working directory, created when it is missing.
    pub cwd: PathBuf,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Who it runs as.
    pub user: User,
}

/// Who a process runs as, before the image's own passwd and group are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user, by number or by name.
    pub user: NameOrId,
    /// The primary group; None: the user's in the image's passwd, or 0.
    pub group: Option<NameOrId>,
    /// Further groups.
    pub supplemental: Vec<u32>,
    /// Whether the groups that the image's group file names the user in are added to `supplemental` (CRI's Merge) or not
    /// (Strict).
    pub merge_image_groups: bool,
}

/// A user or a group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameOrId {
    /// By number.
    Id(u32),
    /// By name, to be found in the image's passwd or group.
    Name(String),
}

/// Who a process really runs as, after the image's own files were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All further groups, sorted, the primary one included as the kernel has it.
    pub groups: Vec<u32>,
}

/// Something mounted into a container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, as the container sees it: absolute. It is resolved inside the root and created when it is missing.
    pub destination: PathBuf,
    /// What.
    pub source: MountSource,
    /// Whether the container may not write to it.
    pub readonly: bool,
    /// Whether what is mounted below the source is read-only too (with `readonly`).
    pub recursive_readonly: bool,
    /// How mounts made later on one side are seen on the other.
    pub propagation: Propagation,
}

/// The number of directories that lead to a destination. Mounts are made in the order of it, equal ones in the caller's: a mount
/// on /m that came after one on /m/n would hide it.
pub(crate) fn depth(destination: &Path) -> usize {
    destination.components().fold(0, |depth, part| match part {
        Component::Normal(_) => depth + 1,
        Component::ParentDir => depth.saturating_sub(1),
        _ => depth,
    })
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A directory or a file of the host: symbolic links in it are followed, and it must exist.
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
    /// Where the container sees it.
    pub destination: PathBuf,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made with mknod.
    pub mknod: bool,
}

/// What a container or a pod may use; None or an empty text: no limit, or on an update: as before.
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
    /// The OOM killer's adjustment, -1000 to 1000 (Linux).
    pub oom_score_adj: Option<i32>,
    /// The CPUs it may run on: `0-3,6`.
    pub cpuset_cpus: String,
    /// The memory nodes it may use.
    pub cpuset_mems: String,
    /// How many processes it may have.
    pub pids: Option<u64>,
    /// Huge pages by size (`2MB`), in bytes (Linux).
    pub hugepages: BTreeMap<String, u64>,
    /// cgroup v2 files by name (Linux).
    pub unified: BTreeMap<String, String>,
}

/// What a container may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Everything that the pod allows.
    pub privileged: bool,
    /// Whether a set-user-id program gains no rights (PROC_NO_NEW_PRIVS, PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// Capabilities beyond the default, without `CAP_`; `ALL`: every one.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default, likewise; they are taken first.
    pub drop_capabilities: Vec<String>,
    /// Capabilities that survive an exec without being in the file's set (Linux).
    pub ambient_capabilities: Vec<String>,
    /// Paths that read as empty.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<PathBuf>,
    /// The filter on system calls.
    pub seccomp: Profile,
    /// The AppArmor profile.
    pub apparmor: Profile,
}

/// A security profile of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The backend's default, where it has one.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that the node holds: a file (seccomp) or a name (AppArmor).
    Localhost(String),
}

/// A process to be executed in a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program, its terminal; user, environment and working directory are the container's own.
    pub args: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it has a standard input.
    pub stdin: bool,
}

/// A signal by its name in capitals without `SIG` (`TERM`, `RTMIN+3`): the numbers are each kernel's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(pub String);

impl Signal {
    /// SIGKILL.
    #[must_use]
    pub fn kill() -> Self {
        Self("KILL".to_owned())
    }

    /// SIGTERM: what a container is stopped with unless it or its image says otherwise.
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
