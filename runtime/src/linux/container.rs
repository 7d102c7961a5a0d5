//! A container: made as runc's bundle in a directory of its own, run by its monitor, removed by its id alone.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use host::ContainerId;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::config::{self, Offered, Surroundings};
use super::names::PINS;
use super::plan::Plan;
use super::{Linux, launch, pod};
use crate::monitor::client::{self, Probe};
use crate::monitor::{self, spec_path};
use crate::spec::{ContainerSpec, Identity, PidScope, PodSpec};
use crate::{ContainerState, Error, Exit, Started, users};

/// The capability to lower an oom_score_adj, by its number.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Makes a container, or keeps the one that is there.
pub(super) fn create(linux: &Linux, spec: &ContainerSpec) -> Result<Identity, Error> {
    let pod = pod::whole(&linux.names, &spec.pod)?;
    let identity = identify(spec)?;
    let directory = linux.names.container(&spec.id);
    if Plan::read(&directory)?.is_some() {
        return Ok(identity);
    }
    let around = surroundings(linux, spec, &pod, identity)?;
    let document = config::document(spec, &around)?;
    let operation = || Error::failed(format!("cannot make container {}", spec.id.short()));
    host::fs::remove_dir_all(&directory).map_err(operation())?;
    fs::create_dir_all(&directory).map_err(operation())?;
    let write = || -> std::io::Result<()> {
        fs::write(spec_path(&directory), serde_json::to_vec(spec)?)?;
        fs::write(directory.join(launch::CONFIG), serde_json::to_vec(&document)?)
    };
    write().map_err(operation())?;
    let plan = Plan {
        pod: spec.pod.clone(),
        state: linux.names.state.clone(),
        name: linux.names.runc(&spec.id),
        cgroup: around.cgroup,
    };
    plan.write(&directory)?;
    Ok(around.identity)
}

fn surroundings(linux: &Linux, spec: &ContainerSpec, pod: &PodSpec, identity: Identity) -> Result<Surroundings, Error> {
    let own = own_status();
    let mut namespaces = vec![("mount", None)];
    for (kind, file) in PINS.into_iter().filter(|(kind, _)| pod::has_own(pod, kind)) {
        namespaces.push((kind, Some(linux.names.pod(&pod.id).join(file))));
    }
    match &spec.pid {
        PidScope::Container => namespaces.push(("pid", None)),
        PidScope::Host => {}
        PidScope::Pod => namespaces.push(("pid", Some(pod_namespace(linux, pod)?))),
        PidScope::Target(target) => namespaces.push(("pid", Some(target_namespace(linux, target, spec)?))),
    }
    if linux.is_unified() && !spec.security.privileged {
        namespaces.push(("cgroup", None));
    }
    Ok(Surroundings {
        identity,
        pod: pod::files(&linux.names, pod),
        namespaces,
        cgroup: pod::cgroup(&linux.names, pod).join(spec.id.short()),
        offered: offered(linux),
        capabilities: own.capabilities,
        lowest_oom_score: (own.capabilities & CAP_SYS_RESOURCE == 0).then_some(own.oom_score_adj),
    })
}

fn pod_namespace(linux: &Linux, pod: &PodSpec) -> Result<PathBuf, Error> {
    let pin = pod::pid_pin(&linux.names, &pod.id);
    if pin.exists() {
        return Ok(pin);
    }
    Err(Error::Invalid { field: "pid".to_owned(), reason: "the pod was made without a process namespace".to_owned() })
}

/// The namespace of a running container of the same pod.
fn target_namespace(linux: &Linux, target: &ContainerId, spec: &ContainerSpec) -> Result<PathBuf, Error> {
    let invalid = |reason: String| Error::Invalid { field: "pid".to_owned(), reason };
    let directory = linux.names.container(target);
    match Plan::read(&directory)? {
        Some(plan) if plan.pod == spec.pod => {}
        _ => return Err(invalid(format!("container {target} is not one of the pod"))),
    }
    match client::probe(&directory)? {
        Probe::Running(started) => Ok(PathBuf::from(format!("/proc/{}/ns/pid", started.pid))),
        _ => Err(invalid(format!("container {target} is not running"))),
    }
}

/// What the kernel accounts on this node.
pub(super) fn offered(linux: &Linux) -> Offered {
    let swap = if linux.is_unified() {
        linux.hierarchies().is_ok_and(|all| all.directory("", &linux.names.root_cgroup()).is_some())
    } else {
        linux
            .hierarchies()
            .ok()
            .and_then(|all| all.directory("memory", Path::new("/")))
            .is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists())
    };
    let hugepages =
        linux.is_unified() || linux.hierarchies().is_ok_and(|all| all.directory("hugetlb", Path::new("/")).is_some());
    Offered { swap, hugepages }
}

/// What this process may hand on.
struct OwnStatus {
    capabilities: u64,
    oom_score_adj: i32,
}

fn own_status() -> OwnStatus {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let capabilities = mask("CapBnd:").unwrap_or(0) & mask("CapPrm:").unwrap_or(0);
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    OwnStatus { capabilities, oom_score_adj: score.trim().parse().unwrap_or(0) }
}

/// Looks the user up in the container's own root.
fn identify(spec: &ContainerSpec) -> Result<Identity, Error> {
    if !spec.rootfs.is_dir() {
        let reason = format!("{} is not a directory", spec.rootfs.display());
        return Err(Error::Invalid { field: "rootfs".to_owned(), reason });
    }
    let passwd = read_beneath(&spec.rootfs, "etc/passwd")?;
    let group = read_beneath(&spec.rootfs, "etc/group")?;
    users::identify(&spec.process.user, &passwd, &group)
}

/// A file of the root, every symbolic link in its path resolved inside the root (openat2(2)); empty: there is none.
fn read_beneath(root: &Path, path: &str) -> Result<String, Error> {
    let operation = || Error::failed(format!("cannot read /{path} of {}", root.display()));
    let directory = fs::File::open(root).map_err(operation())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = match openat2(&directory, path, how) {
        Ok(file) => fs::File::from(file),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP) => {
            return Ok(String::new());
        }
        Err(errno) => return Err(operation()(errno.into())),
    };
    if !file.metadata().map_err(operation())?.is_file() {
        return Ok(String::new());
    }
    let mut text = Vec::new();
    file.take(users::FILE_LIMIT).read_to_end(&mut text).map_err(operation())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The directory and the plan of a container that is whole.
pub(super) fn find(linux: &Linux, id: &ContainerId) -> Result<(PathBuf, Plan), Error> {
    let directory = linux.names.container(id);
    let missing = || Error::NotFound { what: format!("container {}", id.short()) };
    let plan = Plan::read(&directory)?.ok_or_else(missing)?;
    Ok((directory, plan))
}

pub(super) fn start(linux: &Linux, id: &ContainerId) -> Result<Started, Error> {
    let (directory, _) = find(linux, id)?;
    if client::probe(&directory)? != Probe::Created {
        return Err(Error::Conflict { what: format!("container {} was started already", id.short()) });
    }
    client::start(&linux.settings.workers, &directory)
}

/// The state, and when the monitor was killed: what it left is killed too, and that is the end that is told.
pub(super) fn state(linux: &Linux, directory: &Path, plan: &Plan) -> Result<ContainerState, Error> {
    Ok(match client::probe(directory)? {
        Probe::Created => ContainerState::Created,
        Probe::Running(started) => ContainerState::Running(started),
        Probe::Exited { started, exit } => ContainerState::Exited { started, exit },
        Probe::Lost(started) => ContainerState::Exited { started, exit: lost(linux, directory, plan, started)? },
    })
}

fn lost(linux: &Linux, directory: &Path, plan: &Plan, started: Started) -> Result<Exit, Error> {
    linux.hierarchies()?.kill(&plan.cgroup)?;
    client::record_lost(directory, started)
}

/// Kills every process; when it returns, the exit is recorded.
pub(super) fn kill(linux: &Linux, id: &ContainerId) -> Result<(), Error> {
    let (directory, plan) = find(linux, id)?;
    if !client::kill(&directory)? {
        state(linux, &directory, &plan)?;
    }
    Ok(())
}

/// Removes a container, whatever is there of it.
pub(super) fn remove(linux: &Linux, id: &ContainerId) -> Result<(), Error> {
    let directory = linux.names.container(id);
    let hierarchies = linux.hierarchies()?;
    let killed = client::kill(&directory).map(drop);
    if let Some(plan) = Plan::read(&directory)? {
        // Also what the monitor did not know of: an exec whose monitor was killed.
        hierarchies.kill(&plan.cgroup)?;
        linux.runc.delete(&plan.name)?;
        hierarchies.remove(&plan.cgroup)?;
    } else {
        linux.runc.delete(&linux.names.runc(id))?;
    }
    killed?;
    host::fs::remove_dir_all(&directory).map_err(Error::failed(format!("cannot remove {}", directory.display())))
}

/// The spec that a container was made from; None: it is not whole enough to tell.
pub(super) fn read_spec(directory: &Path) -> Option<ContainerSpec> {
    let text = fs::read(monitor::spec_path(directory)).ok()?;
    serde_json::from_slice(&text).ok()
}
