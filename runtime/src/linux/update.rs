//! Changing limits: a container's by runc; a pod's by writing to its cgroup, since there is no container for runc to change.

use std::fs;
use std::path::{Path, PathBuf};

use host::{ContainerId, PodId};
use serde_json::json;

use super::cgroup::{self, Hierarchies};
use super::plan::Plan;
use super::{Linux, NAME, config, container, launch, pod};
use crate::Error;
use crate::monitor::client::{self, Probe};
use crate::spec::Resources;

/// Changes a container's limits: of a running one at once, of one that was not started in the document that starts it.
pub(super) fn container(linux: &Linux, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
    let (directory, plan) = container::find(linux, id)?;
    let limits = config::limits(resources, container::offered(linux));
    match client::probe(&directory)? {
        Probe::Running(_) => {
            linux.runc.update(&plan.name, &limits)?;
            resources.oom_score_adj.map_or(Ok(()), |score| oom_score(linux, &plan, score))
        }
        Probe::Created => merge(&directory.join(launch::CONFIG), &limits),
        _ => Err(Error::Conflict { what: format!("container {} has ended", id.short()) }),
    }
}

/// Gives all processes of a container another oom_score_adj; one that has ended meanwhile needs none.
fn oom_score(linux: &Linux, plan: &Plan, score: i32) -> Result<(), Error> {
    let hierarchies = linux.hierarchies()?;
    let directory = hierarchies.directory(hierarchies.tracking(), &plan.cgroup);
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

/// Puts limits into the document of a container that was not started.
fn merge(path: &Path, limits: &serde_json::Value) -> Result<(), Error> {
    let operation = || Error::failed(format!("cannot change {}", path.display()));
    let text = fs::read(path).map_err(operation())?;
    let mut document: serde_json::Value = serde_json::from_slice(&text).map_err(|error| operation()(error.into()))?;
    for (section, values) in limits.as_object().into_iter().flatten() {
        let place = &mut document["linux"]["resources"][section];
        match (place.as_object_mut(), values.as_object()) {
            (Some(old), Some(new)) => old.extend(new.clone()),
            _ => *place = json!(values),
        }
    }
    host::fs::replace(path, document.to_string().as_bytes(), 0o600).map_err(operation())
}

/// Changes what all containers of a pod together may use.
pub(super) fn pod(linux: &Linux, id: &PodId, resources: &Resources) -> Result<(), Error> {
    let spec = pod::spec(&linux.names, id)?;
    apply(&linux.hierarchies()?, &pod::cgroup(&linux.names, &spec), resources)
}

/// Writes limits to a cgroup, which is made when it is not there.
pub(super) fn apply(hierarchies: &Hierarchies, cgroup: &Path, resources: &Resources) -> Result<(), Error> {
    for (controller, file, value) in settings(hierarchies, resources)? {
        let operation = || Error::failed(format!("cannot set {file} of {} to {value}", cgroup.display()));
        let directory = hierarchies.directory(controller, cgroup).ok_or_else(|| Error::Unsupported {
            what: format!("{file} without the {controller} controller"),
            backend: NAME,
        })?;
        make(hierarchies, &directory).map_err(operation())?;
        fs::write(directory.join(file), &value).map_err(operation())?;
    }
    Ok(())
}

/// Makes a cgroup. On version 2 the controllers are passed down to it from the root on.
fn make(hierarchies: &Hierarchies, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let Hierarchies::V2(root) = hierarchies else { return Ok(()) };
    let mut above: Vec<PathBuf> = directory.ancestors().skip(1).map(Path::to_owned).collect();
    above.retain(|ancestor| ancestor.starts_with(root));
    for ancestor in above.iter().rev() {
        for controller in ["+cpu", "+memory", "+pids", "+cpuset"] {
            // A controller that the kernel does not have shows when its file is written.
            let _ = fs::write(ancestor.join("cgroup.subtree_control"), controller);
        }
    }
    Ok(())
}

type Setting = (&'static str, &'static str, String);

/// The files to be written: their controllers, names and values.
fn settings(hierarchies: &Hierarchies, resources: &Resources) -> Result<Vec<Setting>, Error> {
    if !resources.hugepages.is_empty() && resources.hugepages.values().any(|&limit| limit > 0) {
        return Err(Error::Unsupported { what: "a limit on the huge pages of a pod".to_owned(), backend: NAME });
    }
    let mut all: Vec<Setting> = Vec::new();
    let unified = matches!(hierarchies, Hierarchies::V2(_));
    let mut put = |controller, v1, v2, value: String| all.push((controller, if unified { v2 } else { v1 }, value));
    if let Some(memory) = resources.memory.filter(|&memory| memory > 0) {
        put("memory", "memory.limit_in_bytes", "memory.max", memory.to_string());
    }
    if let Some(pids) = resources.pids.filter(|&pids| pids > 0) {
        put("pids", "pids.max", "pids.max", pids.to_string());
    }
    for (set, name) in [(&resources.cpuset_cpus, "cpuset.cpus"), (&resources.cpuset_mems, "cpuset.mems")] {
        if !set.is_empty() {
            put("cpuset", name, name, set.clone());
        }
    }
    let (quota, period) = (resources.cpu_quota.filter(|&quota| quota != 0), resources.cpu_period.filter(|&p| p > 0));
    if unified {
        if let Some(shares) = resources.cpu_shares.filter(|&shares| shares > 0) {
            all.push(("", "cpu.weight", weight(shares).to_string()));
        }
        if let Some(quota) = quota {
            let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
            all.push(("", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
        }
    } else {
        all.extend(resources.cpu_shares.filter(|&s| s > 0).map(|s| ("cpu", "cpu.shares", s.to_string())));
        all.extend(period.map(|period| ("cpu", "cpu.cfs_period_us", period.to_string())));
        all.extend(quota.map(|quota| ("cpu", "cpu.cfs_quota_us", quota.to_string())));
    }
    Ok(all)
}

/// Shares (2 to 262144) as a weight (1 to 10000), as runc and the kubelet convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::{Hierarchies, settings, weight};
    use crate::spec::Resources;

    #[test]
    fn limits_become_the_files_of_each_version() {
        let resources = Resources {
            memory: Some(1 << 30),
            cpu_quota: Some(-1),
            cpu_period: Some(50_000),
            cpu_shares: Some(1024),
            ..Resources::default()
        };
        let names = |hierarchies: &Hierarchies| -> Vec<String> {
            let all = settings(hierarchies, &resources).unwrap();
            all.into_iter().map(|(_, file, value)| format!("{file}={value}")).collect()
        };
        let v1 =
            ["memory.limit_in_bytes=1073741824", "cpu.shares=1024", "cpu.cfs_period_us=50000", "cpu.cfs_quota_us=-1"];
        assert_eq!(names(&Hierarchies::V1(BTreeMap::new())), v1);
        let v2 = ["memory.max=1073741824", "cpu.weight=39", "cpu.max=max 50000"];
        assert_eq!(names(&Hierarchies::V2(PathBuf::new())), v2);
        assert_eq!((weight(2), weight(262_144), weight(0)), (1, 10_000, 1));
    }
}
