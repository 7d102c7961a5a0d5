//! Containers. Their mounts and files are made when they are created; the monitor creates a jail at their start, which ends
//! with the first process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use host::root::{Kind, resolve};
use host::{ContainerId, Failures};

use super::backend::FreeBsd;
use super::limits::Limits;
use super::mount_plan::{self, PlannedMount, Source};
use super::mounts::{self, Place, Root};
use super::record::{self, ContainerRecord};
use super::rights::Rights;
use super::sys::mount;
use super::{devices, enforce, jails, kernel, names, params, pod, refuse, rulesets, userland};
use crate::monitor::client;
use crate::monitor::record::{SPEC, read_spec, spec_path};
use crate::spec::{ContainerSpec, Identity, MountOptions, MountSource, PodSpec, Propagation, Resources, Scope};
use crate::{Error, users};

/// The mount of a read-only root, in the container's directory.
const READONLY_ROOT: &str = "root";
/// The file that lies over masked files, in the state directory.
const EMPTY_FILE: &str = "empty-file";
/// The directory of the emptyDir volumes of a pod (pkg/volume/emptydir of kubelet), each in a directory of its own.
const KUBELET_EMPTY_DIR: &str = "kubernetes.io~empty-dir";

/// Creates a container, or keeps an existing one.
pub(super) fn create(backend: &FreeBsd, spec: &ContainerSpec) -> Result<Identity, Error> {
    let (rights, limits) = refuse::container(spec)?;
    let pod = pod::find_whole(backend, &spec.pod)?;
    let directory = backend.containers.directory(&spec.id);
    if let Some(record) = ContainerRecord::read(&directory)? {
        return Ok(record.identity);
    }
    if pod.network == Scope::Pod {
        devices::check_no_filter(&spec.devices)?;
    }
    warn_of_propagation(spec);
    // Remains of an earlier attempt.
    remove(backend, &spec.id)?;
    backend.containers.note(&spec.pod, &spec.id)?;
    fs::create_dir_all(&directory).map_err(Error::failed(format!("cannot create {}", directory.display())))?;
    let made = fill(backend, spec, &rights, &limits, &pod);
    if made.is_err() {
        remove(backend, &spec.id)?;
    }
    made
}

/// nullfs(5) shows no file system that is mounted below its source.
fn warn_of_propagation(spec: &ContainerSpec) {
    for mount in spec.mounts.iter().filter(|mount| mount.propagation == Propagation::HostToContainer) {
        let at = mount.destination.display();
        tracing::warn!(
            container = spec.id.short(),
            "later mounts on the host will not appear at {at} (HostToContainer)"
        );
    }
}

fn fill(
    backend: &FreeBsd,
    spec: &ContainerSpec,
    rights: &Rights,
    limits: &Limits,
    pod: &PodSpec,
) -> Result<Identity, Error> {
    let directory = backend.containers.directory(&spec.id);
    let image = Root::open(&spec.rootfs)?;
    let sources = sources(spec)?;
    let (identity, login) = users::look_up(&spec.process.user, image.descriptor())?;
    let release = if spec.for_linux { None } else { release(&image)? };
    // The spec first: a server that dies now finds what to remove.
    host::json::replace(&spec_path(&directory), spec)?;
    let (jail, pod_jail) =
        (names::container(backend.prefix(), &spec.pod, &spec.id), names::pod(backend.prefix(), &spec.pod));
    let mut record = ContainerRecord::new(jail, pod_jail, image.path.clone(), identity);
    (record.login, record.home, record.release) = (login.name, login.home, release);
    record.ruleset = match (rights.all_devices, pod.network) {
        (true, Scope::Host) => 0,
        (true, Scope::Pod) => rulesets::make(&directory, &devices::all_but_the_filter())?,
        (false, _) => rulesets::make(&directory, &devices::rules(&spec.devices)?)?,
    };
    let mounting = Mounting::plan(spec, &sources, record.ruleset, pod::resolv_conf(backend, pod).as_deref())?;
    (record.root, record.tmpfs) = mount_all(&image, spec, &mounting, &directory)?;
    record.tmpfs.extend(memory_volumes(&sources));
    cover(backend, spec, &Root::open(&record.root)?)?;
    record::write_limits(&directory, limits)?;
    // The record last: with it the container is whole.
    record.write(&directory)?;
    Ok(record.identity)
}

/// The release that programs of an image hear; refuses an image that is newer than the kernel.
fn release(image: &Root) -> Result<Option<userland::Release>, Error> {
    let script = host::root::read_text(image.descriptor(), Path::new(userland::SCRIPT), userland::SCRIPT_BYTES);
    let script = script.map_err(Error::failed(format!("cannot read {} of the image", userland::SCRIPT)))?;
    userland::decide(userland::version(&script).as_deref(), &kernel::release())
}

/// The parameters of the container's jail, as its monitor sets them.
pub(super) fn describe(backend: &FreeBsd, id: &ContainerId) -> Result<serde_json::Value, Error> {
    let directory = backend.containers.directory(id);
    let record = ContainerRecord::read(&directory)?;
    let record = record.ok_or_else(|| Error::not_found(format!("container {id}")))?;
    let spec = read_spec(&directory)?;
    let rights = Rights::of_container(&spec)?;
    let set = params::container(&record, &spec, &rights, &kernel::has_parameter);
    Ok(serde_json::json!({ "jail": params::document(&set) }))
}

/// The sources of the spec's mounts, looked up on the host. nullfs(5) mounts directories and regular files only
/// (`nullfs_mount` in fs/nullfs/null_vfsops.c).
fn sources(spec: &ContainerSpec) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for mount in &spec.mounts {
        sources.push(match &mount.source {
            MountSource::Tmpfs { size } => Source::Tmpfs(*size),
            MountSource::Host(path) => {
                let invalid = |reason: String| Error::invalid("mounts.source", format!("{}: {reason}", path.display()));
                let found = path.canonicalize().and_then(|real| Ok((fs::metadata(&real)?.file_type(), real)));
                let (kind, real) = found.map_err(|error| invalid(error.to_string()))?;
                match mount_plan::kind(kind) {
                    Ok(kind) => Source::Null(real, kind),
                    Err(what) => return Err(invalid(format!("{what} cannot be mounted, only a directory or a file"))),
                }
            }
        });
    }
    Ok(sources)
}

/// The planned mounts, and the names of the links in /dev to some of them.
struct Mounting {
    wanted: Vec<PlannedMount>,
    links: BTreeSet<String>,
    /// Whether the working directory is in a mount, which may lack it.
    cwd: bool,
}

impl Mounting {
    fn plan(spec: &ContainerSpec, sources: &[Source], ruleset: u16, resolv_conf: Option<&Path>) -> Result<Self, Error> {
        let mut wanted = mount_plan::mounts(spec, sources, ruleset, resolv_conf);
        let in_devfs = |name: &str| Path::new("/dev").join(name).symlink_metadata().is_ok();
        let links = mount_plan::link_below_dev(&mut wanted, in_devfs)?;
        let cwd = wanted.iter().any(|mount| spec.process.cwd.starts_with(&mount.destination));
        Ok(Self { wanted, links, cwd })
    }

    /// Finds the mount points and the working directory in a root, or makes them.
    fn find_places(&self, root: &Root, spec: &ContainerSpec, make: bool) -> Result<(), Error> {
        for (at, mount) in self.wanted.iter().enumerate() {
            root.find_place(mount, &self.wanted[..at], make)?;
        }
        if self.cwd { Ok(()) } else { find_cwd(root, spec, make) }
    }
}

/// Whether the container lacks nothing in a rootfs that it may not change.
pub(super) fn can_share(backend: &FreeBsd, spec: &ContainerSpec, rootfs: &Path) -> Result<bool, Error> {
    if !spec.readonly_rootfs {
        return Ok(false);
    }
    let pod = pod::find_whole(backend, &spec.pod)?;
    // Places do not depend on sources.
    let sources = vec![Source::Tmpfs(None); spec.mounts.len()];
    let mounting = Mounting::plan(spec, &sources, 0, pod::resolv_conf(backend, &pod).as_deref())?;
    // Whatever is wrong with a destination, the creation of the container tells.
    Ok(mounting.find_places(&Root::open(rootfs)?, spec, false).is_ok())
}

/// The memory-backed volumes of kubelet among the sources: tmpfs file systems that belong to one pod.
fn memory_volumes(sources: &[Source]) -> impl Iterator<Item = PathBuf> {
    let from = |source: &Source| match source {
        Source::Null(from, Kind::Directory) => Some(from.clone()),
        _ => None,
    };
    let of_kubelet = |path: &PathBuf| path.components().any(|part| part.as_os_str() == KUBELET_EMPTY_DIR);
    sources.iter().filter_map(from).filter(of_kubelet).filter(|path| mount::used_of_tmpfs(path).is_some())
}

/// Makes all mount points (a shared rootfs has them), then mounts. The container's root is its rootfs, or a read-only mount of it.
/// Also returns the mount points of tmpfs.
fn mount_all(
    image: &Root,
    spec: &ContainerSpec,
    mounting: &Mounting,
    directory: &Path,
) -> Result<(PathBuf, Vec<PathBuf>), Error> {
    mounting.find_places(image, spec, !spec.shared_rootfs)?;
    let root = if spec.readonly_rootfs {
        let on = directory.join(READONLY_ROOT);
        let failed = || format!("cannot mount the read-only root {}", on.display());
        fs::create_dir(&on).map_err(Error::failed(failed()))?;
        let source = Source::Null(image.path.clone(), Kind::Directory);
        let place = host::root::open(&on).map_err(Error::failed(failed()))?;
        mounts::nmount(&source, Place::Directory(&place), mounts::flags(true, MountOptions::default()))
            .map_err(Error::failed(failed()))?;
        Root::open(&on)?
    } else {
        Root::open(&image.path)?
    };
    let mut tmpfs = Vec::new();
    for mount in &mounting.wanted {
        let on = root.mount(mount)?;
        if matches!(mount.source, Source::Tmpfs(_)) {
            tmpfs.push(on);
        }
        if matches!(mount.source, Source::Devfs(_)) {
            mounting.links.iter().try_for_each(|name| mounts::link_in_dev(&root, name, &mount_plan::linked(name)))?;
        }
    }
    if mounting.cwd {
        find_cwd(&root, spec, true)?;
    }
    Ok((root.path, tmpfs))
}

fn find_cwd(root: &Root, spec: &ContainerSpec, make: bool) -> Result<(), Error> {
    let cwd = &spec.process.cwd;
    let found = resolve(root.descriptor(), cwd, make.then_some(Kind::Directory));
    found.map(drop).map_err(|error| Error::of_value("process.cwd", cwd.display(), error))
}

/// Masks paths, which then read as empty, and makes paths read-only, as far as the image has them.
fn cover(backend: &FreeBsd, spec: &ContainerSpec, root: &Root) -> Result<(), Error> {
    let masked = spec.security.masked_paths.iter().map(|path| (path, true));
    let covered = masked.chain(spec.security.readonly_paths.iter().map(|path| (path, false)));
    for (path, mask) in covered {
        let Ok(found) = resolve(root.descriptor(), path, None) else { continue };
        let kind = if found.directory { Kind::Directory } else { Kind::File };
        let source = match (mask, kind) {
            (true, Kind::Directory) => backend.empty().to_owned(),
            (true, Kind::File) => backend.state().join(EMPTY_FILE),
            (false, _) => root.path.join(&found.path),
        };
        let (destination, place, options) = (path.clone(), path.clone(), MountOptions::default());
        root.mount(&PlannedMount { source: Source::Null(source, kind), destination, place, readonly: true, options })?;
    }
    Ok(())
}

/// Makes the file that lies over masked files.
pub(super) fn prepare_masks(backend: &FreeBsd) -> std::io::Result<()> {
    fs::File::create(backend.state().join(EMPTY_FILE)).map(drop)
}

/// Removes what exists of a container: whatever does not need its record is found by its id in the kernel.
pub(super) fn remove(backend: &FreeBsd, id: &ContainerId) -> Result<(), Error> {
    let directory = backend.containers.directory(id);
    let mut failures = Failures::<Error>::default();
    failures.keep(client::kill(&directory));
    let record = ContainerRecord::read(&directory).ok().flatten();
    let jails = match &record {
        Some(record) => vec![record.jail.clone()],
        None => failures.keep(jails_of(backend, id)).unwrap_or_default(),
    };
    for name in jails {
        failures.keep(jails::end(&name));
    }
    // From the spec, which is written first: the record may be missing or damaged.
    let spec = read_spec(&directory).ok();
    let jail = spec.as_ref().map(|spec| names::container(backend.prefix(), &spec.pod, id));
    if let Some(jail) = record.map(|record| record.jail).or(jail) {
        failures.keep(jails::remove_rules(&jail));
    }
    // A shared rootfs has no mounts of ours in it: they are in the read-only mount of it.
    let rootfs = spec.filter(|spec| !spec.shared_rootfs).and_then(|spec| spec.rootfs.canonicalize().ok());
    failures.keep(mounts::unmount_all(|on| belongs(on, rootfs.as_deref(), &directory, id)));
    if failures.is_empty() {
        failures.keep(rulesets::remove(&directory));
    }
    if failures.is_empty() {
        failures.keep(host::fs::remove_state(&directory, SPEC));
    }
    if failures.is_empty() {
        failures.keep(backend.containers.forget(id));
    }
    failures.result(Error::failed(format!("cannot remove container {}", id.short())))
}

/// The jails of a container without a record, in the list of all.
fn jails_of(backend: &FreeBsd, id: &ContainerId) -> Result<Vec<String>, Error> {
    let own = |name: &String| matches!(names::parse(backend.prefix(), name), Some(names::Owned::Container(_, short)) if short == id.short());
    Ok(jails::list()?.into_iter().map(|(_, name)| name).filter(own).collect())
}

/// Whether a mount belongs to a container: below its root or its directory; without the spec, below a directory with its id.
fn belongs(on: &Path, rootfs: Option<&Path>, directory: &Path, id: &ContainerId) -> bool {
    let below = |root: &Path| on.starts_with(root) && on != root;
    let named = || {
        let mut parts = on.components();
        parts.any(|part| part.as_os_str() == id.as_str()) && parts.next().is_some()
    };
    below(directory) || rootfs.map_or_else(named, below)
}

/// Changes the limits of a container.
pub(super) fn update(backend: &FreeBsd, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
    let (directory, record) = backend.containers.find::<ContainerRecord>(id)?;
    let before = record::read_limits(&directory)?;
    let mut limits = before.clone();
    limits.update(resources)?;
    record::write_limits(&directory, &limits)?;
    let enforced = enforce_again(&directory, &record);
    if enforced.is_err() {
        // A later start or update would fail at limits that were refused.
        record::write_limits(&directory, &before)?;
        enforce_again(&directory, &record)?;
    }
    enforced
}

/// Enforces the current limits on a running container; the start of another one does.
pub(super) fn enforce_again(directory: &Path, record: &ContainerRecord) -> Result<(), Error> {
    match jails::find(&record.jail)? {
        Some(found) => enforce::apply(&record.jail, found.jid, &enforce::wanted(directory, &read_spec(directory)?)?),
        None => Ok(()),
    }
}
