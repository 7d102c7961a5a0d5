//! Pods: namespaces, pinned by bind mounts instead of processes, and the files that the containers share. All of it is in one
//! directory named by the pod's id, so that the id alone is enough to remove it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host::{ContainerId, Failures, Place, PodId};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::cgroup::Hierarchies;
use super::config::PodFiles;
use super::names::{INIT_PID, Names, PID_PIN, PINS, SHM, SPEC, WHOLE};
use super::{Linux, NAME, container, init, sys, sysctl};
use crate::Error;
use crate::spec::{PidScope, PodSpec, Scope};

/// The options of a pod's /dev/shm, as in containerd.
const SHM_OPTIONS: &str = "mode=1777,size=67108864";
/// The limit on mounts on one point: a crash between two calls may have made a second one.
const STACK_MAX: usize = 8;
/// The file that lists the ancestors of the pod's cgroup that did not exist before.
const MADE_CGROUPS: &str = "made-cgroups";

/// Creates a pod, or keeps an existing one.
pub(super) fn create(linux: &Linux, spec: &PodSpec) -> Result<Place, Error> {
    check(spec)?;
    let (names, hierarchies) = (&linux.names, linux.hierarchies()?);
    let directory = names.pod(&spec.id);
    if find(names, &spec.id).is_ok_and(|spec| is_whole(&directory, &spec).is_ok_and(|whole| whole)) {
        return place(names, &spec.id);
    }
    let spec = &spec.named().map_err(Error::failed("cannot read the node's host name"))?;
    // Remains of an interrupted attempt, or of a pod that lost something, are in the way.
    remove_directory(&directory)?;
    let operation = || Error::failed(format!("cannot create pod {}", spec.id.short()));
    fs::create_dir_all(&directory).map_err(operation())?;
    host::json::replace(&directory.join(SPEC), spec)?;
    note_missing_cgroups(&hierarchies, spec, &directory).map_err(operation())?;
    write_files(&directory, spec).map_err(operation())?;
    std::thread::scope(|scope| scope.spawn(|| make_namespaces(&directory, spec)).join())
        .map_err(|_| operation()(io::Error::other("the thread that makes its namespaces has panicked")))??;
    if spec.pid == PidScope::Pod {
        init::start(&linux.settings.workers, &directory)?;
    }
    fs::write(directory.join(WHOLE), "").map_err(operation())?;
    place(names, &spec.id)
}

/// Refuses what cannot be honoured, before anything is made.
pub(super) fn check(spec: &PodSpec) -> Result<(), Error> {
    if matches!(spec.pid, PidScope::Target(_)) {
        return Err(Error::Unsupported {
            what: "a pod in another container's process namespace".to_owned(),
            backend: NAME,
        });
    }
    if let Some(name) = spec.jail.first() {
        return Err(Error::Unsupported { what: format!("jail parameter {name}"), backend: NAME });
    }
    if let Some(filter) = &spec.filter {
        return Err(Error::Unsupported { what: format!("a pod's own pf ({})", filter.name), backend: NAME });
    }
    sysctl::check(spec)
}

/// The place of a whole pod's network.
pub(super) fn place(names: &Names, id: &PodId) -> Result<Place, Error> {
    Ok(match find_whole(names, id)?.network {
        Scope::Host => Place::Host,
        Scope::Pod => Place::Netns(names.pod(id).join("net")),
    })
}

/// The spec of an existing pod.
pub(super) fn find(names: &Names, id: &PodId) -> Result<PodSpec, Error> {
    host::json::read::<PodSpec>(&names.pod(id).join(SPEC))?.filter(|spec| spec.id == *id).ok_or_else(|| not_found(id))
}

pub(super) fn find_whole(names: &Names, id: &PodId) -> Result<PodSpec, Error> {
    let spec = find(names, id)?;
    if is_whole(&names.pod(id), &spec)? { Ok(spec) } else { Err(not_found(id)) }
}

/// Whether a pod was created to its end, its namespaces are pinned and its init runs.
pub(super) fn is_whole(directory: &Path, spec: &PodSpec) -> Result<bool, Error> {
    let is_pinned = |file: &str| {
        let path = directory.join(file);
        match statfs(&path) {
            Ok(found) => Ok(found.filesystem_type() == NSFS_MAGIC),
            Err(nix::errno::Errno::ENOENT) => Ok(false),
            Err(errno) => Err(Error::failed(format!("cannot look at {}", path.display()))(errno)),
        }
    };
    for (_, file) in PINS.into_iter().filter(|(kind, _)| has_own(spec, kind)) {
        if !is_pinned(file)? {
            return Ok(false);
        }
    }
    let has_init = spec.pid != PidScope::Pod || (is_pinned(PID_PIN)? && init::is_running(directory)?);
    Ok(has_init && directory.join(WHOLE).exists())
}

fn not_found(id: &PodId) -> Error {
    Error::not_found(format!("pod {}", id.short()))
}

/// The parent cgroup of the pod's containers.
pub(super) fn cgroup(names: &Names, spec: &PodSpec) -> PathBuf {
    match &spec.cgroup_parent {
        Some(parent) if !parent.is_empty() => Path::new("/").join(parent.trim_start_matches('/')),
        _ => names.pod_cgroup(&spec.id),
    }
}

/// The cgroup of a container. The whole id: agents on the node find a container by the 64 digits in the path of its cgroup.
pub(super) fn container_cgroup(names: &Names, spec: &PodSpec, container: &ContainerId) -> PathBuf {
    cgroup(names, spec).join(container.as_str())
}

/// The files that the pod's containers share.
pub(super) fn files(names: &Names, spec: &PodSpec) -> PodFiles {
    let directory = names.pod(&spec.id);
    let shm = if spec.ipc == Scope::Host { PathBuf::from("/dev/shm") } else { directory.join(SHM) };
    let files = [("/etc/hosts", "hosts"), ("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")];
    PodFiles { shm, files: files.map(|(destination, name)| (destination, directory.join(name))).into() }
}

fn write_files(directory: &Path, spec: &PodSpec) -> io::Result<()> {
    let of_host = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    };
    fs::write(directory.join("hosts"), of_host("/etc/hosts")?)?;
    let hostname = match &spec.hostname {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    let resolv_conf = match &spec.resolv_conf {
        Some(text) => text.clone(),
        None => of_host("/etc/resolv.conf")?,
    };
    fs::write(directory.join("resolv.conf"), resolv_conf)?;
    if spec.ipc == Scope::Pod {
        let shm = directory.join(SHM);
        fs::create_dir_all(&shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))?;
    }
    Ok(())
}

/// Whether the pod has its own namespace of this kind.
pub(super) fn has_own(spec: &PodSpec, kind: &str) -> bool {
    match kind {
        "network" => spec.network == Scope::Pod,
        "ipc" => spec.ipc == Scope::Pod,
        _ => spec.hostname.is_some(),
    }
}

/// Makes and pins the namespaces of a pod in a thread that ends with this call.
fn make_namespaces(directory: &Path, spec: &PodSpec) -> Result<(), Error> {
    let operation = || Error::failed(format!("cannot create pod {}", spec.id.short()));
    unshare(spec).map_err(operation())?;
    if spec.network == Scope::Pod {
        sysctl::apply_defaults();
    }
    sysctl::apply(&spec.sysctls)?;
    pin_namespaces(directory, spec).map_err(operation())
}

/// Gives the calling thread the pod's own namespaces.
fn unshare(spec: &PodSpec) -> io::Result<()> {
    let flags =
        [("network", CloneFlags::CLONE_NEWNET), ("uts", CloneFlags::CLONE_NEWUTS), ("ipc", CloneFlags::CLONE_NEWIPC)];
    let own =
        flags.into_iter().filter(|(kind, _)| has_own(spec, kind)).fold(CloneFlags::empty(), |all, (_, f)| all | f);
    nix::sched::unshare(own)?;
    if let Some(hostname) = &spec.hostname {
        nix::unistd::sethostname(hostname)?;
    }
    if spec.network == Scope::Pod {
        sys::raise_loopback()?;
    }
    Ok(())
}

/// Pins the calling thread's namespaces.
fn pin_namespaces(directory: &Path, spec: &PodSpec) -> io::Result<()> {
    for (kind, file) in PINS.into_iter().filter(|(kind, _)| has_own(spec, kind)) {
        let path = directory.join(file);
        fs::write(&path, "")?;
        let namespace = if kind == "network" { "net" } else { kind };
        let source = PathBuf::from(format!("/proc/thread-self/ns/{namespace}"));
        mount(Some(&source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(())
}

/// The path of the process namespace that the pod's containers share.
pub(super) fn pid_pin(names: &Names, id: &PodId) -> PathBuf {
    names.pod(id).join(PID_PIN)
}

/// Notes which ancestors of the pod's parent cgroup do not exist yet: runc makes them, and only this backend removes them.
fn note_missing_cgroups(hierarchies: &Hierarchies, spec: &PodSpec, directory: &Path) -> io::Result<()> {
    let Some(parent) = spec.cgroup_parent.as_deref().filter(|parent| !parent.is_empty()) else { return Ok(()) };
    let parent = Path::new("/").join(parent.trim_start_matches('/'));
    let is_missing = |cgroup: &&Path| {
        hierarchies.directory(hierarchies.tracking(), cgroup).is_some_and(|directory| !directory.exists())
    };
    let missing: Vec<String> =
        parent.ancestors().take_while(is_missing).map(|cgroup| cgroup.display().to_string()).collect();
    if missing.is_empty() { Ok(()) } else { fs::write(directory.join(MADE_CGROUPS), missing.join("\n")) }
}

/// Removes a pod: its containers, and after these its init, pins, cgroups and directory.
pub(super) fn remove(linux: &Linux, id: &PodId) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    for container in failures.keep(linux.containers.of_pod(id)).unwrap_or_default() {
        failures.keep(container::remove(linux, &container));
    }
    if failures.is_empty() {
        let directory = linux.names.pod(id);
        let made = fs::read_to_string(directory.join(MADE_CGROUPS)).unwrap_or_default();
        failures.keep(remove_directory(&directory));
        if let Some(hierarchies) = failures.keep(linux.hierarchies()) {
            failures.keep(hierarchies.remove(&linux.names.pod_cgroup(id)));
            hierarchies.remove_if_empty(&linux.names.root_cgroup());
            made.lines().for_each(|cgroup| hierarchies.remove_if_empty(Path::new(cgroup)));
        }
    }
    failures.result(Error::failed(format!("cannot remove pod {}", id.short())))
}

/// Removes a pod's directory with its init and mounts. Idempotent.
fn remove_directory(directory: &Path) -> Result<(), Error> {
    let failed = || format!("cannot remove {}", directory.display());
    if !directory.exists() {
        return Ok(());
    }
    // The init goes first: its pin tells it from a later process with its number.
    init::stop(directory)?;
    let mut failures = Failures::<Error>::default();
    for name in PINS.map(|(_, file)| file).into_iter().chain([PID_PIN, SHM]) {
        let point = directory.join(name);
        failures.keep(unmount(&point).map_err(Error::failed(format!("cannot unmount {}", point.display()))));
    }
    if failures.is_empty() {
        failures.keep(host::fs::remove_state(directory, SPEC));
    }
    failures.result(Error::failed(failed()))
}

/// Unmounts everything that is mounted on a file or directory. Idempotent.
fn unmount(point: &Path) -> nix::Result<()> {
    for _ in 0..STACK_MAX {
        match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // No mount point, or there is nothing.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(nix::Error::EBUSY)
}

/// The file with the pid of a pod's init.
pub(super) fn init_pid_path(directory: &Path) -> PathBuf {
    directory.join(INIT_PID)
}
