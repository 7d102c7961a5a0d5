//! Pods: a persistent jail with a network of its own and no process in it, and the spares that are made ahead.

use std::fs;
use std::path::PathBuf;

use host::{Failures, Place, PodId};
use serde::{Deserialize, Serialize};

use super::backend::FreeBsd;
use super::limits::Limits;
use super::record::{self, ContainerRecord, POD_SPEC, RESOLV_CONF, pod_directory, spare_directory};
use super::sys::jail;
use super::{container, inside, jails, kernel, names, params, refuse};
use crate::Error;
use crate::spec::{PodSpec, Resources, Scope};

/// Where the host's own resolver is configured.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is kept of a spare: the whole of its id, of which its jail's name has only the beginning.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SpareRecord {
    pub(super) id: PodId,
}

fn not_found(id: &PodId) -> Error {
    Error::not_found(format!("pod {}", id.short()))
}

/// The spec of a pod that is there.
pub(super) fn spec(backend: &FreeBsd, id: &PodId) -> Result<PodSpec, Error> {
    let read = host::json::read::<PodSpec>(&pod_directory(backend.state(), id).join(POD_SPEC))?;
    read.filter(|spec| spec.id == *id).ok_or_else(|| not_found(id))
}

/// The spec of a pod that has its jail.
pub(super) fn whole(backend: &FreeBsd, id: &PodId) -> Result<PodSpec, Error> {
    let spec = spec(backend, id)?;
    jails::find(&names::pod(backend.prefix(), id))?.map(|_| spec).ok_or_else(|| not_found(id))
}

/// Where the network of a pod that has its jail is.
pub(super) fn place(backend: &FreeBsd, id: &PodId) -> Result<Place, Error> {
    let spec = whole(backend, id)?;
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

/// Makes a pod, of a spare where one is given.
pub(super) fn create(backend: &FreeBsd, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error> {
    refuse::pod(spec)?;
    let spec = &spec.named().map_err(Error::failed("cannot read the node's host name"))?;
    let name = names::pod(backend.prefix(), &spec.id);
    if self::spec(backend, &spec.id).is_err() || jails::find(&name)?.is_none() {
        make(backend, spec, &name, spare)?;
    }
    // Also of a pod that is there: an earlier call may have failed at one of them.
    for (parameter, value) in &spec.sysctls {
        inside::set(&backend.settings.workers, &name, parameter, value)?;
    }
    Ok(place_of(backend, spec))
}

/// Makes the jail of a pod.
fn make(backend: &FreeBsd, spec: &PodSpec, name: &str, spare: Option<&PodId>) -> Result<(), Error> {
    // A spare that cannot be used is found out before anything is made.
    let spare = spare.map(|id| usable_spare(backend, id, spec)).transpose()?;
    write(backend, spec)?;
    match spare {
        Some((id, found, changes)) => {
            jail::update(found.jid, &changes)
                .map_err(Error::failed(format!("cannot make a pod of spare {}", id.short())))?;
            Ok(host::fs::remove_state(&spare_directory(backend.state(), id), POD_SPEC)?)
        }
        None if jails::find(name)?.is_none() => {
            let wanted = params::pod(name, spec, backend.empty(), &kernel::has_parameter);
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
    let changes = params::spare_to_pod(&name, spec).ok_or_else(|| {
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

/// What containers and a server started again read of it; its spec last: with it the pod is known.
fn write(backend: &FreeBsd, spec: &PodSpec) -> Result<(), Error> {
    let directory = pod_directory(backend.state(), &spec.id);
    let failed = || format!("cannot write {}", directory.display());
    fs::create_dir_all(&directory).map_err(Error::failed(failed()))?;
    if let Some(text) = &spec.resolv_conf {
        fs::write(directory.join(RESOLV_CONF), text).map_err(Error::failed(failed()))?;
    }
    record::write_limits(&directory, &Limits::of(&spec.resources)?)?;
    Ok(host::json::replace(&directory.join(POD_SPEC), spec)?)
}

/// Makes a pod ahead.
pub(super) fn create_spare(backend: &FreeBsd, id: &PodId) -> Result<Place, Error> {
    let name = names::spare(backend.prefix(), id);
    let directory = spare_directory(backend.state(), id);
    fs::create_dir_all(&directory).map_err(Error::failed(format!("cannot make {}", directory.display())))?;
    host::json::replace(&directory.join(POD_SPEC), &SpareRecord { id: id.clone() })?;
    if jails::find(&name)?.is_none() {
        let wanted = params::spare(&name, backend.empty(), &kernel::has_parameter);
        jail::create(&wanted).map_err(Error::failed(format!("cannot create jail {name}")))?;
    }
    Ok(Place::Jail(name))
}

/// Changes what all containers of a pod together may use.
pub(super) fn update(backend: &FreeBsd, id: &PodId, resources: &Resources) -> Result<(), Error> {
    spec(backend, id)?;
    let directory = pod_directory(backend.state(), id);
    let mut limits = record::read_limits(&directory)?;
    limits.update(resources)?;
    record::write_limits(&directory, &limits)?;
    let containers = backend.containers.of_pod(id)?;
    // One that is not whole has nothing to enforce anything on.
    let mut whole =
        containers.iter().filter_map(|container| backend.containers.find::<ContainerRecord>(container).ok());
    whole.try_for_each(|(directory, record)| container::enforce_again(&directory, &record))
}

/// Removes a pod or a spare, with every container in it. What the kernel takes long over, its vnet, goes on under another
/// name when this has returned.
pub(super) fn remove(backend: &FreeBsd, id: &PodId) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    for container in failures.keep(backend.containers.of_pod(id)).unwrap_or_default() {
        failures.keep(container::remove(backend, &container));
    }
    let name = names::pod(backend.prefix(), id);
    let below = format!("{name}.");
    // Containers whose state is lost.
    for (_, child) in
        failures.keep(jails::list()).unwrap_or_default().into_iter().filter(|(_, name)| name.starts_with(&below))
    {
        failures.keep(jails::end(&child));
        failures.keep(jails::remove_rules(&child));
    }
    failures.keep(jails::remove_rules(&name));
    if failures.is_empty() {
        failures.keep(doom(backend, id, &name));
        failures.keep(doom(backend, id, &names::spare(backend.prefix(), id)));
    }
    if failures.is_empty() {
        failures.keep(host::fs::remove_state(&pod_directory(backend.state(), id), POD_SPEC));
        failures.keep(host::fs::remove_state(&spare_directory(backend.state(), id), POD_SPEC));
    }
    failures.result(Error::failed(format!("cannot remove pod {}", id.short())))
}

/// Takes a jail its name away, and lets it be destroyed in the background. A server that is killed before finds it by its
/// new name ([`sweep`]).
fn doom(backend: &FreeBsd, id: &PodId, name: &str) -> Result<(), Error> {
    let Some(found) = jails::find(name)? else { return Ok(()) };
    let doomed = names::doomed(backend.prefix(), id);
    let rename = vec![("name".to_owned(), params::Value::Text(doomed.clone()))];
    jail::update(found.jid, &rename).map_err(Error::failed(format!("cannot rename jail {name}")))?;
    destroy(found, doomed);
    Ok(())
}

fn destroy(found: jail::Jail, name: String) {
    std::thread::spawn(move || {
        if let Err(error) = found.remove() {
            tracing::warn!(jail = name, %error, "a jail was not removed; the next start tries it again");
        }
    });
}

/// Goes on destroying what an earlier server had begun to destroy.
pub(super) fn sweep(backend: &FreeBsd) -> Result<(), Error> {
    for (_, name) in jails::list()? {
        if names::parse(backend.prefix(), &name) == Some(names::Owned::Doomed)
            && let Some(found) = jails::find(&name)?
        {
            destroy(found, name);
        }
    }
    Ok(())
}
