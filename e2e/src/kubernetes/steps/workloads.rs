//! The controllers of Kubernetes: a Deployment, a StatefulSet, a DaemonSet, Jobs and a CronJob.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kubernetes::NODE;
use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::wait::until;

/// A CronJob starts at the next full minute.
const MINUTE: Duration = Duration::from_secs(60);

fn rolled_out(cluster: &Cluster<'_, '_>, what: &str) -> Result<()> {
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    let waited = cluster.kubectl.command(&["rollout", "status", what, &timeout]).timeout(2 * PATIENCE).run();
    let pods = || cluster.kubectl.run(&["get", "pods", "-o", "wide"]).unwrap_or_default();
    waited.map(drop).with_context(|| format!("{what} does not roll out:\n{}", pods()))
}

pub(super) fn deployment(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    rolled_out(cluster, "deployment/web")?;
    kubectl.run(&["scale", "deployment/web", "--replicas=3"])?;
    kubectl.wait("deployment/web", "jsonpath={.status.readyReplicas}=3", PATIENCE)?;
    kubectl.run(&["set", "env", "deployment/web", "GENERATION=2"])?;
    rolled_out(cluster, "deployment/web")?;
    let generation = || kubectl.exec("deployment/web", "echo $GENERATION");
    ensure!(generation()?.trim() == "2", "the new pods do not have the new environment");
    kubectl.run(&["rollout", "undo", "deployment/web"])?;
    rolled_out(cluster, "deployment/web")?;
    until(PATIENCE, || {
        let seen = generation()?;
        ensure!(seen.trim().is_empty(), "after undo a pod's GENERATION is {seen}");
        Ok(())
    })
}

pub(super) fn stateful_set(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    rolled_out(cluster, "statefulset/db")?;
    let old = kubectl.get(&["pod/db-0"])?["metadata"]["uid"].clone();
    kubectl.run(&["delete", "pod/db-0"])?;
    kubectl.until("pod/db-0", PATIENCE, |pod| pod["metadata"]["uid"] != old)?;
    rolled_out(cluster, "statefulset/db")?;
    for name in ["db-0", "db-1"] {
        let host = kubectl.exec(name, "hostname")?;
        ensure!(host.trim() == name, "the host's name of {name} is {host}");
    }
    Ok(())
}

pub(super) fn daemon_set(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    rolled_out(cluster, "daemonset/agent")?;
    let pods = cluster.kubectl.get(&["pods", "-l", "app=agent"])?;
    let pod = &pods["items"][0];
    ensure!(pod["spec"]["nodeName"] == NODE, "the pod is on {}", pod["spec"]["nodeName"]);
    ensure!(pod["status"]["podIP"] == cluster.address, "its address is {}, not the node's", pod["status"]["podIP"]);
    let processes = cluster.kubectl.exec("daemonset/agent", "cat /proc/[0-9]*/comm 2>/dev/null; true")?;
    ensure!(processes.contains("kubelet"), "with hostPID it does not see kubelet: {processes}");
    Ok(())
}

pub(super) fn jobs(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("job/sum", "condition=complete", PATIENCE)?;
    ensure!(kubectl.run(&["logs", "job/sum"])?.trim() == "42", "the job's log is not 42");
    kubectl.wait("job/fails", "condition=failed", PATIENCE)
}

pub(super) fn cron_job(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    until(MINUTE + PATIENCE, || {
        let job = cluster.kubectl.get(&["cronjob/tick"])?;
        ensure!(job["status"]["lastSuccessfulTime"].is_string(), "its status is {}", job["status"]);
        Ok(())
    })
}

pub(super) fn service(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    rolled_out(cluster, "deployment/web")?;
    let service = kubectl.get(&["service/web"])?;
    let address = service["spec"]["clusterIP"].as_str().context("the Service has no address")?.to_owned();
    // From every pod of the Service, often enough that each one reaches itself.
    let pods = kubectl.get(&["pods", "-l", "app=web"])?;
    let stays = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null();
    for pod in pods["items"].as_array().context("no list")?.iter().filter(stays) {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let script = format!("for i in $(seq 12); do wget -q -O /dev/null http://{address}:8080/ || exit 1; done");
        kubectl.exec(name, &script).with_context(|| format!("{name} does not reach its Service {address}"))?;
    }
    Ok(())
}
