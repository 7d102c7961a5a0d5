//! What there is: the state directory's pods, spares and containers, and the kernel's jails under the prefix.

use std::collections::BTreeSet;

use host::{ContainerId, PodId};

use super::backend::FreeBsd;
use super::facts::{self, Facts, POD_SPEC};
use super::pod::SpareRecord;
use super::{container, jails, names};
use crate::spec::PodSpec;
use crate::{ContainerState, Error, Inventory};

/// Takes the inventory. What cannot be read, and a jail that no id here gives, is named and left alone.
pub(super) fn take(backend: &FreeBsd) -> Result<Inventory, Error> {
    let mut inventory = Inventory::default();
    let mut known = BTreeSet::new();
    let pods = backend.state().join("pods");
    for name in facts::entries(&pods)? {
        match facts::read::<PodSpec>(&pods.join(&name).join(POD_SPEC)) {
            Ok(Some(spec)) => {
                known.insert(names::pod(backend.prefix(), &spec.id));
                inventory.pods.push(spec.id);
            }
            _ => inventory.unknown.push(pods.join(&name).display().to_string()),
        }
    }
    let spares = backend.state().join("spares");
    for name in facts::entries(&spares)? {
        match facts::read::<SpareRecord>(&spares.join(&name).join(POD_SPEC)) {
            Ok(Some(record)) => {
                known.insert(names::spare(backend.prefix(), &record.id));
                inventory.spares.push(record.id);
            }
            _ => inventory.unknown.push(spares.join(&name).display().to_string()),
        }
    }
    let containers = backend.state().join("containers");
    for name in facts::entries(&containers)? {
        let directory = containers.join(&name);
        let Some(spec) = container::read_spec(&directory) else {
            inventory.unknown.push(directory.display().to_string());
            continue;
        };
        known.insert(names::container(backend.prefix(), &spec.pod, &spec.id));
        let state = match Facts::read(&directory)? {
            Some(facts) => container::state(&directory, &facts)?,
            None => ContainerState::Created,
        };
        inventory.containers.insert(spec.id, (spec.pod, state));
    }
    for (_, name) in jails::list()? {
        match names::parse(backend.prefix(), &name) {
            None | Some(names::Owned::Doomed) => {}
            Some(_) if known.contains(&name) => {}
            Some(_) => inventory.unknown.push(format!("jail {name}")),
        }
    }
    inventory.pods.sort();
    inventory.spares.sort();
    Ok(inventory)
}

/// The pods that have their jails.
pub(super) fn whole_pods(backend: &FreeBsd) -> Result<BTreeSet<PodId>, Error> {
    let jails: BTreeSet<String> = jails::list()?.into_iter().map(|(_, name)| name).collect();
    let pods = backend.state().join("pods");
    let mut whole = BTreeSet::new();
    for name in facts::entries(&pods)? {
        // One that cannot be read is nobody's.
        if let Ok(Some(spec)) = facts::read::<PodSpec>(&pods.join(&name).join(POD_SPEC))
            && jails.contains(&names::pod(backend.prefix(), &spec.id))
        {
            whole.insert(spec.id);
        }
    }
    Ok(whole)
}

/// The containers of a pod, whole or not.
pub(super) fn containers_of(backend: &FreeBsd, pod: &PodId) -> Result<Vec<ContainerId>, Error> {
    let containers = backend.state().join("containers");
    let names = facts::entries(&containers)?;
    let specs = names.iter().filter_map(|name| container::read_spec(&containers.join(name)));
    Ok(specs.filter(|spec| spec.pod == *pod).map(|spec| spec.id).collect())
}
