//! The mounts of a container: those that every Linux program expects, the pod's files, and the spec's, which replace ours with
//! the same destination.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::mountinfo::{self, Peers};
use crate::Error;
use crate::spec::{ContainerSpec, Mount, MountOptions, MountSource, Propagation, depth};

/// The files that the pod's containers share.
#[derive(Debug)]
pub(crate) struct PodFiles {
    /// The directory that is /dev/shm.
    pub(crate) shm: PathBuf,
    /// The pod's own files, by their destinations: /etc/hosts, /etc/hostname, /etc/resolv.conf.
    pub(crate) files: Vec<(&'static str, PathBuf)>,
}

/// The mounts, and the propagation of the container's root (`linux.rootfsPropagation`).
pub(crate) struct Mounts {
    pub(crate) list: Vec<Value>,
    pub(crate) propagation: Option<&'static str>,
}

/// All mounts of a container.
pub(crate) fn mounts(spec: &ContainerSpec, pod: &PodFiles) -> Result<Mounts, Error> {
    let taken = |destination: &str| {
        let destination = Path::new(destination);
        spec.mounts.iter().any(|mount| {
            mount.destination == destination
                || (mount.destination == Path::new("/dev") && destination.starts_with("/dev"))
        })
    };
    let mut list: Vec<Value> = of_linux(spec.security.privileged)
        .into_iter()
        .filter(|mount| !taken(mount["destination"].as_str().unwrap_or_default()))
        .collect();
    let mut placed: Vec<(&Path, Value)> = Vec::new();
    if !taken("/dev/shm") {
        let at = Path::new("/dev/shm");
        placed.push((at, bind(&pod.shm, at, &["rbind", "rw", "rprivate", "nosuid", "nodev", "noexec"])));
    }
    let access = if spec.readonly_rootfs { "ro" } else { "rw" };
    for (destination, source) in pod.files.iter().filter(|(destination, _)| !taken(destination)) {
        let at = Path::new(*destination);
        placed.push((at, bind(source, at, &["rbind", "rprivate", access])));
    }
    for mount in &spec.mounts {
        placed.push((&mount.destination, asked_for(mount)?));
    }
    // Stable: of two mounts on one place the later one lies above.
    placed.sort_by_key(|(at, _)| depth(at));
    list.extend(placed.into_iter().map(|(_, mount)| mount));
    Ok(Mounts { list, propagation: root_propagation(&spec.mounts) })
}

/// The propagation of the root that its mounts need.
fn root_propagation(mounts: &[Mount]) -> Option<&'static str> {
    let any = |wanted: Propagation| mounts.iter().any(|mount| mount.propagation == wanted);
    match (any(Propagation::Bidirectional), any(Propagation::HostToContainer)) {
        (true, _) => Some("rshared"),
        (false, true) => Some("rslave"),
        (false, false) => None,
    }
}

/// The mounts that every Linux program expects.
fn of_linux(privileged: bool) -> Vec<Value> {
    let special = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let access = if privileged { "rw" } else { "ro" };
    vec![
        special("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        special("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        special("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        special("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        special("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        special("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

fn asked_for(mount: &Mount) -> Result<Value, Error> {
    if !mount.destination.is_absolute() {
        return Err(invalid(mount, "the destination is not absolute"));
    }
    let access = match (mount.readonly, mount.recursive_readonly) {
        (false, true) => return Err(invalid(mount, "recursively read-only, but not read-only")),
        (true, true) if mount.propagation != Propagation::Private => {
            return Err(invalid(mount, "recursively read-only needs private propagation"));
        }
        (true, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    match &mount.source {
        MountSource::Host(path) => {
            let source = std::fs::canonicalize(path)
                .map_err(|error| invalid(mount, &format!("mount source {}: {error}", path.display())))?;
            let propagation = propagation(mount, &source)?;
            let all = ["rbind", propagation, access].into_iter().chain(options(mount));
            Ok(bind(&source, &mount.destination, &all.collect::<Vec<_>>()))
        }
        MountSource::Tmpfs { size } => {
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), access.replace("rro", "ro")];
            options.extend(mount.options.noexec.then(|| "noexec".to_owned()));
            options.extend(size.map(|bytes| format!("size={bytes}")));
            Ok(json!({ "destination": mount.destination, "type": "tmpfs", "source": "tmpfs", "options": options }))
        }
    }
}

/// The option of the propagation. A source whose mount does not propagate is refused.
fn propagation(mount: &Mount, source: &Path) -> Result<&'static str, Error> {
    let peers = || match mountinfo::mount_of(source) {
        Ok((_, peers)) => Ok(peers),
        Err(error) => Err(invalid(mount, &format!("/proc/self/mountinfo: {error}"))),
    };
    match mount.propagation {
        Propagation::Private => Ok("rprivate"),
        Propagation::HostToContainer if peers()? != Peers::Private => Ok("rslave"),
        Propagation::Bidirectional if peers()? == Peers::Shared => Ok("rshared"),
        Propagation::HostToContainer => Err(invalid(mount, "the source is not on a shared or slave mount")),
        Propagation::Bidirectional => Err(invalid(mount, "the source is not on a shared mount")),
    }
}

/// The options beside access and propagation, as mount(8) names them.
fn options(mount: &Mount) -> impl Iterator<Item = &'static str> {
    let MountOptions { noexec, nosuid, nodev } = mount.options;
    [(noexec, "noexec"), (nosuid, "nosuid"), (nodev, "nodev")].into_iter().filter(|(set, _)| *set).map(|(_, name)| name)
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn invalid(mount: &Mount, reason: &str) -> Error {
    Error::invalid("mounts", format!("{}: {reason}", mount.destination.display()))
}
