//! Containers: created as runc bundles, run by their monitors, and removed by id alone.

use std::fs;
use std::path::{Path, PathBuf};

use host::{ContainerId, Failures};
use nix::mount::{MsFlags, mount};

use super::config::{self, Offered, Surroundings};
use super::mountinfo::{self, Peers};
use super::names::PINS;
use super::record::ContainerRecord;
use super::{Linux, NAME, launch, pod};
use crate::monitor::client;
use crate::monitor::record::{SPEC, read_spec, spec_path};
use crate::spec::{ContainerSpec, Identity, Mount, MountSource, PidScope, PodSpec, Propagation};
use crate::{ContainerState, Error, users};

/// CAP_SYS_RESOURCE, which may lower an oom_score_adj, as a mask.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Creates a container, or keeps an existing one.
pub(super) fn create(linux: &Linux, spec: &ContainerSpec) -> Result<Identity, Error> {
    if spec.shared_rootfs {
        // runc makes mount points in it.
        return Err(Error::Unsupported { what: "a rootfs of several containers".to_owned(), backend: NAME });
    }
    let pod = pod::find_whole(&linux.names, &spec.pod)?;
    let identity = identify(spec)?;
    let directory = linux.containers.directory(&spec.id);
    if ContainerRecord::read(&directory)?.is_some() {
        return Ok(identity);
    }
    let around = surroundings(linux, spec, &pod, identity)?;
    share_sources(&spec.mounts)?;
    let document = config::document(spec, &around)?;
    let operation = || Error::failed(format!("cannot create container {}", spec.id.short()));
    linux.containers.note(&spec.pod, &spec.id)?;
    host::fs::remove_dir_all(&directory).map_err(operation())?;
    fs::create_dir_all(&directory).map_err(operation())?;
    host::json::replace(&spec_path(&directory), spec)?;
    host::json::replace(&directory.join(launch::CONFIG), &document)?;
    let record = ContainerRecord {
        pod: spec.pod.clone(),
        state: linux.names.state.clone(),
        name: linux.names.runc(&spec.id),
        cgroup: around.cgroup,
        hierarchies: Some((*linux.hierarchies()?).clone()),
    };
    record.write(&directory)?;
    Ok(around.identity)
}

/// Makes the private mounts shared from which the container is to get later mounts (HostToContainer). systemd makes `/` shared at
/// boot; where it does not run, the kernel's default is private (mount_namespaces(7)). They stay shared: others may rely on it by
/// then, and on the host nothing else changes.
fn share_sources(mounts: &[Mount]) -> Result<(), Error> {
    for wanted in mounts.iter().filter(|mount| mount.propagation == Propagation::HostToContainer) {
        let MountSource::Host(source) = &wanted.source else { continue };
        // A source that does not exist is refused with its mount.
        let Ok(source) = fs::canonicalize(source) else { continue };
        let operation = || format!("cannot make the mount of {} shared", source.display());
        let (point, peers) = mountinfo::mount_of(&source).map_err(Error::failed(operation()))?;
        if peers == Peers::Private {
            mount(None::<&str>, &point, None::<&str>, MsFlags::MS_SHARED, None::<&str>)
                .map_err(Error::failed(operation()))?;
            tracing::info!("made the mount {} shared, for {}", point.display(), wanted.destination.display());
        }
    }
    Ok(())
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
        cgroup: pod::container_cgroup(&linux.names, pod, &spec.id),
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
    Err(Error::invalid("pid", "the pod was made without a process namespace"))
}

/// The namespace of a running container of the same pod.
fn target_namespace(linux: &Linux, target: &ContainerId, spec: &ContainerSpec) -> Result<PathBuf, Error> {
    let invalid = |reason: String| Error::invalid("pid", reason);
    match ContainerRecord::read(&linux.containers.directory(target))? {
        Some(record) if record.pod == spec.pod => {}
        _ => return Err(invalid(format!("container {target} is not one of the pod"))),
    }
    match linux.containers.state(target)? {
        ContainerState::Running(started) => Ok(PathBuf::from(format!("/proc/{}/ns/pid", started.pid))),
        _ => Err(invalid(format!("container {target} is not running"))),
    }
}

/// The limits that the kernel can account on this node.
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

/// The rights that this process can pass on.
pub(super) struct OwnStatus {
    pub(super) capabilities: u64,
    oom_score_adj: i32,
}

pub(super) fn own_status() -> OwnStatus {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let capabilities = mask("CapBnd:").unwrap_or(0) & mask("CapPrm:").unwrap_or(0);
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    OwnStatus { capabilities, oom_score_adj: score.trim().parse().unwrap_or(0) }
}

/// Looks up the user in the container's root.
fn identify(spec: &ContainerSpec) -> Result<Identity, Error> {
    let root =
        host::root::open(&spec.rootfs).map_err(|error| Error::of_value("rootfs", spec.rootfs.display(), error))?;
    users::look_up(&spec.process.user, &root).map(|(identity, _)| identity)
}

/// The cgroup of a container, from its record; where that is damaged, as it was computed.
fn cgroup(linux: &Linux, id: &ContainerId) -> Option<PathBuf> {
    let directory = linux.containers.directory(id);
    if let Ok(record) = ContainerRecord::read(&directory) {
        return record.map(|record| record.cgroup);
    }
    let pod = pod::find(&linux.names, &read_spec(&directory).ok()?.pod).ok()?;
    Some(pod::container_cgroup(&linux.names, &pod, id))
}

/// Removes what exists of a container.
pub(super) fn remove(linux: &Linux, id: &ContainerId) -> Result<(), Error> {
    let directory = linux.containers.directory(id);
    let mut failures = Failures::<Error>::default();
    failures.keep(client::kill(&directory));
    let cgroup = cgroup(linux, id).and_then(|cgroup| Some((failures.keep(linux.hierarchies())?, cgroup)));
    if let Some((hierarchies, cgroup)) = &cgroup {
        // An exec whose monitor was killed is in it too.
        failures.keep(hierarchies.kill(cgroup));
    }
    match &cgroup {
        Some((hierarchies, cgroup)) => {
            if failures.keep(hierarchies.remove(cgroup)).is_some() {
                failures.keep(linux.runc.forget(&linux.names.runc(id)));
            }
        }
        None => drop(failures.keep(linux.runc.delete(&linux.names.runc(id)))),
    }
    if failures.is_empty() {
        failures.keep(host::fs::remove_state(&directory, SPEC));
    }
    if failures.is_empty() {
        failures.keep(linux.containers.forget(id));
    }
    failures.result(Error::failed(format!("cannot remove container {}", id.short())))
}
