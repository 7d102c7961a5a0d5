//! The inventory: the backend's directories, and what runc and the cgroups hold under the prefix.

use std::collections::BTreeSet;

use host::PodId;

use super::names::SPEC;
use super::{Linux, pod};
use crate::spec::PodSpec;
use crate::{Error, Inventory};

/// Reads the inventory. Unreadable directories are listed as unknown.
pub(super) fn take(linux: &Linux) -> Result<Inventory, Error> {
    let mut inventory = Inventory::default();
    for (directory, spec) in host::json::read_each::<PodSpec>(&linux.names.pods(), SPEC)? {
        match spec {
            Some(spec) => inventory.pods.push(spec.id),
            None => inventory.unknown.push(directory.display().to_string()),
        }
    }
    linux.containers.add_to(&mut inventory)?;
    let known: BTreeSet<String> = inventory.containers.keys().map(|id| linux.names.runc(id)).collect();
    let strangers = linux.runc.names()?.into_iter().filter(|name| !known.contains(name));
    inventory.unknown.extend(strangers.map(|name| format!("runc container {name}")));
    let hierarchies = linux.hierarchies()?;
    let cgroups = hierarchies.directory(hierarchies.tracking(), &linux.names.root_cgroup());
    for directory in cgroups.map(|root| host::fs::entries(&root)).transpose()?.unwrap_or_default() {
        let is_known = inventory.pods.iter().any(|pod| directory.ends_with(pod.short()));
        if directory.is_dir() && !is_known {
            inventory.unknown.push(directory.display().to_string());
        }
    }
    Ok(inventory)
}

/// Those of these pods that lost none of their kernel objects.
pub(super) fn whole_pods(linux: &Linux, pods: &[PodId]) -> Result<BTreeSet<PodId>, Error> {
    let mut whole = BTreeSet::new();
    for id in pods {
        let directory = linux.names.pod(id);
        let spec = match host::json::read::<PodSpec>(&directory.join(SPEC)) {
            // It was not made to its end. That a file cannot be read, for want of descriptors say, tells nothing of the pod.
            Err(error) if error.source.is::<serde_json::Error>() => None,
            read => read?,
        };
        if let Some(spec) = spec
            && pod::is_whole(&directory, &spec)?
        {
            whole.insert(id.clone());
        }
    }
    Ok(whole)
}
