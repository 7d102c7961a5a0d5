//! Pods: persistent jails with their own networks and without processes; and spares, which are made ahead.

use std::fs;
use std::path::PathBuf;

use host::{Failures, Place, PodId};
use serde::{Deserialize, Serialize};

use super::backend::FreeBsd;
use super::limits::Limits;
use super::record::{self, ContainerRecord, POD_SPEC, RESOLV_CONF, pod_directory, spare_directory};
use super::sys::jail;
use super::{container, filter, inside, jails, kernel, names, params, refuse};
use crate::Error;
use crate::spec::{PodSpec, Resources, Scope};

/// Where the host's own resolver is configured.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// The last port that only root may bind (V_ipport_reservedhigh in netinet/in_pcb.c, for IPv6 too).
const LOW_PORTS: &str = "net.inet.ip.portrange.reservedhigh";

/// The record of a spare: its whole id, of which the jail's name has only the beginning.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SpareRecord {
    pub(super) id: PodId,
}

fn not_found(id: &PodId) -> Error {
    Error::not_found(format!("pod {}", id.short()))
}

/// The spec of an existing pod.
pub(super) fn find(backend: &FreeBsd, id: &PodId) -> Result<PodSpec, Error> {
    let read = host::json::read::<PodSpec>(&pod_directory(backend.state(), id).join(POD_SPEC))?;
    read.filter(|spec| spec.id == *id).ok_or_else(|| not_found(id))
}

pub(super) fn find_whole(backend: &FreeBsd, id: &PodId) -> Result<PodSpec, Error> {
    let spec = find(backend, id)?;
    jails::find(&names::pod(backend.prefix(), id))?.map(|_| spec).ok_or_else(|| not_found(id))
}

/// The place of a whole pod's network.
pub(super) fn place(backend: &FreeBsd, id: &PodId) -> Result<Place, Error> {
    let spec = find_whole(backend, id)?;
    Ok(place_of(backend, &spec))
}

fn place_of(backend: &FreeBsd, spec: &PodSpec) -> Place {
    match spec.network {
        Scope::Pod => Place::Jail(names::pod(backend.prefix(), &spec.id)),
        Scope::Host => Place::Host,
    }
}

/// The resolv.conf of its containers; None: the host has none either.
pub(super) fn resolv_conf(backend: &FreeBsd, spec: &PodSpec) -> Option<PathBuf> {
    match spec.resolv_conf {
        Some(_) => Some(pod_directory(backend.state(), &spec.id).join(RESOLV_CONF)),
        None => PathBuf::from(HOST_RESOLV_CONF).canonicalize().ok(),
    }
}

/// Creates a pod, or makes a spare one.
pub(super) fn create(backend: &FreeBsd, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error> {
    refuse::pod(spec, &kernel::has_parameter)?;
    let spec = &spec.named().map_err(Error::failed("cannot read the node's host name"))?;
    let name = names::pod(backend.prefix(), &spec.id);
    if find(backend, &spec.id).is_err() || jails::find(&name)?.is_none() {
        make(backend, spec, &name, spare)?;
        if spare.is_none() && spec.network == Scope::Pod {
            open_low_ports(backend, &name);
        }
    }
    // In an existing pod too: an earlier call may have failed at one of them.
    for (parameter, value) in &spec.sysctls {
        inside::set(&backend.settings.workers, &name, parameter, value)?;
    }
    Ok(place_of(backend, spec))
}

/// Lets every user in a pod bind its ports below 1024, as containerd does (enable_unprivileged_ports): they are no other's.
/// Where the node's securelevel forbids it, they stay root's.
fn open_low_ports(backend: &FreeBsd, name: &str) {
    if let Err(error) = inside::set(&backend.settings.workers, name, LOW_PORTS, "0") {
        tracing::warn!(jail = name, error = host::chain(&error), "only root may bind ports below 1024 in a pod");
    }
}

/// Creates the jail of a pod.
fn make(backend: &FreeBsd, spec: &PodSpec, name: &str, spare: Option<&PodId>) -> Result<(), Error> {
    // An unusable spare is refused before anything is made.
    let spare = spare.map(|id| usable_spare(backend, id, spec)).transpose()?;
    write(backend, spec)?;
    match spare {
        Some((id, found, changes)) => {
            jail::update(found.jid, &changes)
                .map_err(Error::failed(format!("cannot create a pod of spare {}", id.short())))?;
            Ok(host::fs::remove_state(&spare_directory(backend.state(), id), POD_SPEC)?)
        }
        None if jails::find(name)?.is_none() => {
            let wanted = params::pod(name, spec, &filter::jail_root(backend, spec), &kernel::has_parameter);
            jail::create(&wanted).map(drop).map_err(Error::failed(format!("cannot create jail {name}")))
        }
        None => Ok(()),
    }
}

fn usable_spare<'a>(
    backend: &FreeBsd,
    id: &'a PodId,
    spec: &PodSpec,
) -> Result<(&'a PodId, jail::Jail, params::Params), Error> {
    let name = names::pod(backend.prefix(), &spec.id);
    let changes = params::spare_to_pod(&name, spec, &kernel::has_parameter).ok_or_else(|| {
        Error::conflict(format!(
            "spare {} has a network and a host name of its own: pod {} wants the host's",
            id.short(),
            spec.id
        ))
    })?;
    let found = jails::find(&names::spare(backend.prefix(), id))?;
    let found = found.ok_or_else(|| Error::not_found(format!("spare {}", id.short())))?;
    Ok((id, found, changes))
}

/// Writes the files that containers and a restarted server read. The spec is last: with it the pod exists.
fn write(backend: &FreeBsd, spec: &PodSpec) -> Result<(), Error> {
    let directory = pod_directory(backend.state(), &spec.id);
    let failed = || format!("cannot write {}", directory.display());
    fs::create_dir_all(&directory).map_err(Error::failed(failed()))?;
    if let Some(text) = &spec.resolv_conf {
        fs::write(directory.join(RESOLV_CONF), text).map_err(Error::failed(failed()))?;
    }
    filter::write(backend, spec)?;
    record::write_limits(&directory, &Limits::of(&spec.resources)?)?;
    Ok(host::json::replace(&directory.join(POD_SPEC), spec)?)
}

/// Makes a spare.
pub(super) fn create_spare(backend: &FreeBsd, id: &PodId) -> Result<Place, Error> {
    let name = names::spare(backend.prefix(), id);
    let directory = spare_directory(backend.state(), id);
    fs::create_dir_all(&directory).map_err(Error::failed(format!("cannot create {}", directory.display())))?;
    host::json::replace(&directory.join(POD_SPEC), &SpareRecord { id: id.clone() })?;
    if jails::find(&name)?.is_none() {
        let wanted = params::spare(&name, backend.empty(), &kernel::has_parameter);
        jail::create(&wanted).map_err(Error::failed(format!("cannot create jail {name}")))?;
        open_low_ports(backend, &name);
    }
    Ok(Place::Jail(name))
}

/// Changes the limits of all containers of a pod together.
pub(super) fn update(backend: &FreeBsd, id: &PodId, resources: &Resources) -> Result<(), Error> {
    find(backend, id)?;
    let directory = pod_directory(backend.state(), id);
    let mut limits = record::read_limits(&directory)?;
    limits.update(resources)?;
    record::write_limits(&directory, &limits)?;
    let containers = backend.containers.of_pod(id)?;
    // A container that is not whole has no jail to limit.
    let mut whole =
        containers.iter().filter_map(|container| backend.containers.find::<ContainerRecord>(container).ok());
    whole.try_for_each(|(directory, record)| container::enforce_again(&directory, &record))
}

/// Removes a pod or a spare with every container in it. The kernel takes long to destroy a vnet: that goes on under another
/// name when this has returned.
pub(super) fn remove(backend: &FreeBsd, id: &PodId) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    for container in failures.keep(backend.containers.of_pod(id)).unwrap_or_default() {
        failures.keep(container::remove(backend, &container));
    }
    let name = names::pod(backend.prefix(), id);
    let below = format!("{name}.");
    // Containers whose state is lost. The list of all jails grows with the node.
    let has_children = failures.keep(jails::has_children(&name)).unwrap_or(true);
    let all = if has_children { failures.keep(jails::list()).unwrap_or_default() } else { Vec::new() };
    for (_, child) in all.into_iter().filter(|(_, name)| name.starts_with(&below)) {
        failures.keep(jails::end(&child));
        failures.keep(jails::remove_rules(&child));
    }
    failures.keep(jails::remove_rules(&name));
    if failures.is_empty() {
        failures.keep(remove_in_background(backend, id, &name));
        failures.keep(remove_in_background(backend, id, &names::spare(backend.prefix(), id)));
        failures.keep(filter::remove(backend, id));
    }
    if failures.is_empty() {
        failures.keep(host::fs::remove_state(&pod_directory(backend.state(), id), POD_SPEC));
        failures.keep(host::fs::remove_state(&spare_directory(backend.state(), id), POD_SPEC));
    }
    failures.result(Error::failed(format!("cannot remove pod {}", id.short())))
}

/// Renames a jail, and lets it be destroyed in the background. A server that is restarted meanwhile finds it by its new name
/// ([`sweep`]).
fn remove_in_background(backend: &FreeBsd, id: &PodId, name: &str) -> Result<(), Error> {
    let Some(found) = jails::find(name)? else { return Ok(()) };
    let removed = names::removed(backend.prefix(), id);
    let rename = vec![("name".to_owned(), params::Value::Text(removed.clone()))];
    jail::update(found.jid, &rename).map_err(Error::failed(format!("cannot rename jail {name}")))?;
    destroy(found, removed);
    Ok(())
}

fn destroy(found: jail::Jail, name: String) {
    std::thread::spawn(move || {
        if let Err(error) = found.remove() {
            tracing::warn!(jail = name, %error, "a jail was not removed; the next start tries it again");
        }
    });
}

/// Continues to destroy the jails of removed pods that an earlier server left.
pub(super) fn sweep(backend: &FreeBsd) -> Result<(), Error> {
    for (_, name) in jails::list()? {
        if names::parse(backend.prefix(), &name) == Some(names::Owned::Removed)
            && let Some(found) = jails::find(&name)?
        {
            destroy(found, name);
        }
    }
    Ok(())
}
