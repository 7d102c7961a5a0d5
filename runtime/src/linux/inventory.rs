//! What there is: the backend's directories, and what runc and the cgroups hold under the prefix.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host::{ContainerId, PodId};

use super::{Linux, container, plan::Plan, pod};
use crate::spec::ContainerSpec;
use crate::{ContainerState, Error, Inventory};

/// Monitors that are asked at the same time: each answer is a switch to another process, which waits for its turn on a busy
/// machine, and a server that was killed is waited for.
const ASKED_AT_ONCE: usize = 16;

/// Takes the inventory. What cannot be read belongs to nobody that is known, and is named.
pub(super) fn take(linux: &Linux) -> Result<Inventory, Error> {
    let mut inventory = Inventory::default();
    let mut known = Vec::new();
    for directory in entries(&linux.names.pods())? {
        match pod::read_spec(&directory) {
            Ok(Some(spec)) => inventory.pods.push(spec.id),
            _ => inventory.unknown.push(directory.display().to_string()),
        }
    }
    let directories = entries(&linux.names.containers())?;
    for (directory, held) in directories.iter().zip(each_held(linux, &directories)?) {
        let Some((spec, state)) = held? else {
            inventory.unknown.push(directory.display().to_string());
            continue;
        };
        known.push(linux.names.runc(&spec.id));
        inventory.containers.insert(spec.id, (spec.pod, state));
    }
    let names = linux.runc.names().map_err(Error::failed("cannot list runc's states"))?;
    let strangers = names.into_iter().filter(|name| !known.contains(name));
    inventory.unknown.extend(strangers.map(|name| format!("runc container {name}")));
    let cgroups = linux.hierarchies()?.directory(linux.hierarchies()?.tracking(), &linux.names.root_cgroup());
    for directory in cgroups.map(|root| entries(&root)).transpose()?.unwrap_or_default() {
        let is_known = inventory.pods.iter().any(|pod| directory.ends_with(pod.short()));
        if directory.is_dir() && !is_known {
            inventory.unknown.push(directory.display().to_string());
        }
    }
    Ok(inventory)
}

/// The pods that lost nothing of what they were made of.
pub(super) fn whole_pods(linux: &Linux) -> Result<BTreeSet<PodId>, Error> {
    let mut whole = BTreeSet::new();
    for directory in entries(&linux.names.pods())? {
        // One that cannot be read is nobody's.
        if let Ok(Some(spec)) = pod::read_spec(&directory)
            && pod::is_whole(&directory, &spec)?
        {
            whole.insert(spec.id);
        }
    }
    Ok(whole)
}

/// A container with its state; None: it cannot be read.
type Held = Option<(ContainerSpec, ContainerState)>;

/// What each directory of a container holds, asked of several monitors at the same time.
fn each_held(linux: &Linux, directories: &[PathBuf]) -> Result<Vec<Result<Held, Error>>, Error> {
    let share = directories.len().div_ceil(ASKED_AT_ONCE).max(1);
    let ask = |share: &[PathBuf]| share.iter().map(|directory| held(linux, directory)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let start = |share| std::thread::Builder::new().spawn_scoped(scope, move || ask(share));
        let threads: io::Result<Vec<_>> = directories.chunks(share).map(start).collect();
        let threads = threads.map_err(Error::failed("cannot start a thread that asks monitors"))?;
        let answers =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|it| std::panic::resume_unwind(it)));
        Ok(answers.flatten().collect())
    })
}

fn held(linux: &Linux, directory: &Path) -> Result<Held, Error> {
    let Some(spec) = container::read_spec(directory) else { return Ok(None) };
    let state = match Plan::read(directory)? {
        Some(plan) => container::state(linux, directory, &plan)?,
        None => ContainerState::Created,
    };
    Ok(Some((spec, state)))
}

/// The containers of a pod, whole or not.
pub(super) fn containers_of(linux: &Linux, pod: &PodId) -> Result<Vec<ContainerId>, Error> {
    let directories = entries(&linux.names.containers())?;
    let specs = directories.iter().filter_map(|directory| container::read_spec(directory));
    Ok(specs.filter(|spec| spec.pod == *pod).map(|spec| spec.id).collect())
}

/// What is in a directory, in order; one that is not there is empty.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let operation = || Error::failed(format!("cannot list {}", directory.display()));
    match fs::read_dir(directory) {
        Ok(entries) => {
            let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
            let mut paths = paths.map_err(operation())?;
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(operation()(error)),
    }
}
