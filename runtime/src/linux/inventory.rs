//! What there is: the backend's directories, and what runc and the cgroups hold under the prefix.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host::{ContainerId, PodId};

use super::{Linux, container, plan::Plan, pod};
use crate::{ContainerState, Error, Inventory};

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
    for directory in entries(&linux.names.containers())? {
        let Some(spec) = container::read_spec(&directory) else {
            inventory.unknown.push(directory.display().to_string());
            continue;
        };
        known.push(linux.names.runc(&spec.id));
        let state = match Plan::read(&directory)? {
            Some(plan) => container::state(linux, &directory, &plan)?,
            None => ContainerState::Created,
        };
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
