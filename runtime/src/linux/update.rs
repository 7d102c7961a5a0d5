//! Changes the limits of a container, by runc or in the document that starts it. kubelet changes those of a pod, whose cgroup
//! it makes.

use std::fs;
use std::path::Path;

use host::ContainerId;
use serde_json::json;

use super::record::ContainerRecord;
use super::{Linux, cgroup, config, container, launch};
use crate::spec::Resources;
use crate::{ContainerState, Error};

/// Changes the limits of a running container at once, and of one that was not started in its document.
pub(super) fn container(linux: &Linux, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
    let (directory, record) = linux.containers.find::<ContainerRecord>(id)?;
    let limits = config::limits(resources, container::offered(linux));
    match linux.containers.state(id)? {
        ContainerState::Running(_) => {
            linux.runc.update(&record.name, &limits)?;
            resources.oom_score_adj.map_or(Ok(()), |score| oom_score(linux, &record, score))
        }
        ContainerState::Created => merge(&directory.join(launch::CONFIG), &limits),
        _ => Err(Error::conflict(format!("container {} has ended", id.short()))),
    }
}

/// Changes the oom_score_adj of all processes of a container.
fn oom_score(linux: &Linux, record: &ContainerRecord, score: i32) -> Result<(), Error> {
    let hierarchies = linux.hierarchies()?;
    let directory = hierarchies.directory(hierarchies.tracking(), &record.cgroup);
    let processes = directory.map(|directory| cgroup::processes(&directory)).transpose();
    for process in processes.map_err(Error::failed("cannot list a container's processes"))?.unwrap_or_default() {
        match fs::write(format!("/proc/{process}/oom_score_adj"), score.to_string()) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::warn!(process, score, "oom_score_adj cannot be lowered without CAP_SYS_RESOURCE");
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::failed(format!("cannot set the oom_score_adj of process {process}"))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes limits into the document of a container that was not started.
fn merge(path: &Path, limits: &serde_json::Value) -> Result<(), Error> {
    let mut document = launch::read_config(path)?;
    for (section, values) in limits.as_object().into_iter().flatten() {
        let place = &mut document["linux"]["resources"][section];
        match (place.as_object_mut(), values.as_object()) {
            (Some(old), Some(new)) => old.extend(new.clone()),
            _ => *place = json!(values),
        }
    }
    Ok(host::json::replace(path, &document)?)
}
