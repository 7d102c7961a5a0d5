//! A pod's own packet filter. Only a process in the pod's jail, which owns the vnet, may change it, and that jail's root is empty:
//! a pod with rules has a root of its own, in which the node's pfctl(8) and what it reads are mounted while it runs.

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::PodId;

use super::backend::FreeBsd;
use super::mount_plan::Source;
use super::mounts::{self, Place};
use super::record::pod_directory;
use super::sys::module_id;
use super::{inside, names, pod};
use crate::Error;
use crate::spec::{MountOptions, PodSpec};

/// The root, in the pod's directory.
const ROOT: &str = "filter";
/// The file of the rules, in the root.
const RULES: &str = "pf.conf";
/// What pfctl is and reads: itself, its libraries, services and protocols.
const PROGRAMS: [&str; 4] = ["sbin", "lib", "libexec", "etc"];
const DEV: &str = "dev";
/// The number of the module that has the rules, in the pod's directory: a module that is loaded again has none.
const LOADED: &str = "filter.json";
const MODULE: &CStr = c"pf";

/// Held while something is mounted: the files of a pod that is removed go only after it.
static MOUNTED: Mutex<()> = Mutex::new(());

/// The root of the pod's jail. No process but pfctl is ever in it, and containers have roots of their own.
pub(super) fn jail_root(backend: &FreeBsd, spec: &PodSpec) -> PathBuf {
    match spec.filter {
        Some(_) => root(backend, &spec.id),
        None => backend.empty().to_owned(),
    }
}

fn root(backend: &FreeBsd, id: &PodId) -> PathBuf {
    pod_directory(backend.state(), id).join(ROOT)
}

/// Writes the rules, and makes the places of what pfctl needs. Idempotent.
pub(super) fn write(backend: &FreeBsd, spec: &PodSpec) -> Result<(), Error> {
    let Some(filter) = &spec.filter else { return Ok(()) };
    let root = root(backend, &spec.id);
    let failed = || format!("cannot write {}", root.display());
    for name in PROGRAMS.iter().chain([&DEV]) {
        fs::create_dir_all(root.join(name)).map_err(Error::failed(failed()))?;
    }
    fs::write(root.join(RULES), &filter.rules).map_err(Error::failed(failed()))
}

/// Loads the rules unless the module that is loaded now has them.
pub(super) fn load(backend: &FreeBsd, id: &PodId) -> Result<bool, Error> {
    let _mounted = lock();
    let spec = pod::find_whole(backend, id)?;
    let Some(filter) = &spec.filter else { return Ok(false) };
    let operation = || format!("cannot load {} into pod {}", filter.name, id.short());
    let module = module_id(MODULE)
        .ok_or_else(|| Error::Unavailable { operation: operation(), source: "pf is not loaded (pf(4))".into() })?;
    let loaded = pod_directory(backend.state(), id).join(LOADED);
    if host::json::read::<i32>(&loaded)? == Some(module) {
        return Ok(false);
    }
    let root = root(backend, id);
    // Of an attempt that was cut short.
    unmount(&root)?;
    let done = mount(&root).and_then(|()| {
        let jail = names::pod(backend.prefix(), id);
        inside::filter(&backend.settings.workers, &jail, RULES, filter)
    });
    unmount(&root)?;
    done?;
    host::json::replace(&loaded, &module)?;
    Ok(true)
}

fn mount(root: &Path) -> Result<(), Error> {
    let programs = PROGRAMS.map(|name| {
        let from = Path::new("/").join(name);
        (Source::Null(from, host::root::Kind::Directory), name)
    });
    for (source, name) in programs.into_iter().chain([(Source::Devfs(0), DEV)]) {
        let on = root.join(name);
        let failed = || format!("cannot mount {} on {}", source.file_system(), on.display());
        let place = host::root::open(&on).map_err(Error::failed(failed()))?;
        let readonly = !matches!(source, Source::Devfs(_));
        mounts::nmount(&source, Place::Directory(&place), mounts::flags(readonly, MountOptions::default()))
            .map_err(Error::failed(failed()))?;
    }
    Ok(())
}

/// Unmounts what a call that was cut short left of a pod whose jail has another name by now. Idempotent.
pub(super) fn remove(backend: &FreeBsd, id: &PodId) -> Result<(), Error> {
    let root = root(backend, id);
    let _mounted = lock();
    if root.exists() { unmount(&root) } else { Ok(()) }
}

fn unmount(root: &Path) -> Result<(), Error> {
    mounts::unmount_all(|on| on.starts_with(root))
}

fn lock() -> MutexGuard<'static, ()> {
    MOUNTED.lock().unwrap_or_else(PoisonError::into_inner)
}
