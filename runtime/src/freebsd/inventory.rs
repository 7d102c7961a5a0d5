//! The inventory: the state directory's pods, spares and containers, and the kernel's jails under the prefix.

use std::collections::BTreeSet;

use host::PodId;

use super::backend::FreeBsd;
use super::pod::SpareRecord;
use super::record::POD_SPEC;
use super::{jails, names};
use crate::spec::PodSpec;
use crate::{Error, Inventory};

/// Reads the inventory. Unreadable directories, and jails whose names have no known id, are listed as unknown.
pub(super) fn take(backend: &FreeBsd) -> Result<Inventory, Error> {
    let (mut inventory, prefix) = (Inventory::default(), backend.prefix());
    let mut known = BTreeSet::new();
    for (directory, spec) in host::json::read_each::<PodSpec>(&backend.state().join("pods"), POD_SPEC)? {
        match spec {
            Some(spec) => {
                known.insert(names::pod(prefix, &spec.id));
                inventory.pods.push(spec.id);
            }
            None => inventory.unknown.push(directory.display().to_string()),
        }
    }
    for (directory, record) in host::json::read_each::<SpareRecord>(&backend.state().join("spares"), POD_SPEC)? {
        match record {
            Some(record) => {
                known.insert(names::spare(prefix, &record.id));
                inventory.spares.push(record.id);
            }
            None => inventory.unknown.push(directory.display().to_string()),
        }
    }
    backend.containers.add_to(&mut inventory)?;
    known.extend(inventory.containers.iter().map(|(id, (pod, _))| names::container(prefix, pod, id)));
    for (_, name) in jails::list()? {
        match names::parse(prefix, &name) {
            None | Some(names::Owned::Removed) => {}
            Some(_) if known.contains(&name) => {}
            Some(_) => inventory.unknown.push(format!("jail {name}")),
        }
    }
    inventory.pods.sort();
    inventory.spares.sort();
    Ok(inventory)
}

/// Those of these pods whose jails exist.
pub(super) fn whole_pods(backend: &FreeBsd, pods: &[PodId]) -> Result<BTreeSet<PodId>, Error> {
    let jails: BTreeSet<String> = jails::list()?.into_iter().map(|(_, name)| name).collect();
    Ok(pods.iter().filter(|id| jails.contains(&names::pod(backend.prefix(), id))).cloned().collect())
}
