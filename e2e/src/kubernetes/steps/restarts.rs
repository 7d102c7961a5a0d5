//! kubelet and Cellblock are killed under the pods of the scenario: running pods are not affected, and new ones start afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::images::BUSYBOX;
use crate::kubernetes::NODE;
use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::kubernetes::kubectl::container;

/// Pods that restart or come and go by design.
const UNSTEADY: [&str; 8] =
    ["crash", "unwell", "hook-fails", "tick", "after-", "ends-meanwhile", "evicted", "node-debugger"];
/// How long neither runs.
const DOWN: Duration = Duration::from_secs(2);

/// Every running container by its pod and name, with its id and its restart count.
fn running(cluster: &Cluster<'_, '_>) -> Result<BTreeMap<String, (String, u64)>> {
    running_on(cluster, NODE)
}

/// The same, of a node.
pub(in crate::kubernetes) fn running_on(
    cluster: &Cluster<'_, '_>,
    node: &str,
) -> Result<BTreeMap<String, (String, u64)>> {
    let pods = cluster.kubectl.get(&["pods", "--field-selector", &format!("spec.nodeName={node}")])?;
    let mut all = BTreeMap::new();
    for pod in pods["items"].as_array().context("no list")? {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let steady =
            pod["metadata"]["deletionTimestamp"].is_null() && !UNSTEADY.iter().any(|start| name.starts_with(start));
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        for status in statuses.filter(|status| steady && status["state"]["running"].is_object()) {
            let id = status["containerID"].to_string();
            all.insert(format!("{name}/{}", status["name"]), (id, status["restartCount"].as_u64().unwrap_or_default()));
        }
    }
    Ok(all)
}

/// Checks that containers are unchanged, a new pod runs, and exec works in an old one.
fn unharmed(cluster: &Cluster<'_, '_>, before: &BTreeMap<String, (String, u64)>, pod: &str) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.run(&["run", pod, &format!("--image={BUSYBOX}"), "--restart=Never", "--", "echo", "new"])?;
    kubectl.until(&format!("pod/{pod}"), PATIENCE, |pod| pod["status"]["phase"] == "Succeeded")?;
    let after = running(cluster)?;
    for (name, state) in before {
        let now = after.get(name);
        ensure!(now == Some(state), "{name} was {state:?} and is {now:?}");
    }
    for pod in before.keys().filter_map(|name| name.split('/').next()).filter(|name| *name == "counter") {
        let lines = kubectl.run(&["logs", pod, "--since=1s"])?;
        ensure!(lines.contains("line "), "{pod} writes no log any more");
        kubectl.exec(pod, "true")?;
    }
    Ok(())
}

pub(super) fn kubelet(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let before = running(cluster)?;
    cluster.kubelet.kill()?;
    std::thread::sleep(DOWN);
    cluster.kubelet.start()?;
    unharmed(cluster, &before, "after-kubelet")
}

pub(super) fn cellblock(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let before = running(cluster)?;
    cluster.server.kill()?;
    std::thread::sleep(DOWN);
    cluster.server.start()?;
    unharmed(cluster, &before, "after-cellblock")
}

/// The exit code of a container that exits while neither runs is reported afterwards.
pub(super) fn both(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.wait("pod/ends-meanwhile", "condition=Ready", PATIENCE)?;
    let before = running(cluster)?;
    cluster.kubelet.kill()?;
    cluster.server.kill()?;
    std::fs::write(cluster.host_dir().join("end"), "")?;
    std::thread::sleep(DOWN);
    cluster.server.start()?;
    cluster.kubelet.start()?;
    unharmed(cluster, &before, "after-both")?;
    let failed = |pod: &Value| pod["status"]["phase"] == "Failed";
    let pod = cluster.kubectl.until("pod/ends-meanwhile", PATIENCE, failed)?;
    let ended = &container(&pod, "waits")["state"]["terminated"];
    ensure!(ended["exitCode"] == 7, "it ended as {ended}");
    Ok(())
}
