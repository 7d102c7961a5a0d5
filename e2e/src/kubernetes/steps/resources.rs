//! Limits in the container's cgroup, their enforcement, and their change in place.

use anyhow::{Context, Result, ensure};

use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::kubernetes::kubectl::container;
use crate::wait::until;

/// Prints the limits of memory (bytes) and CPU time (µs in each 100 ms) of its container, on either version of cgroups.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null; \
    cut -d ' ' -f 1 cpu.max 2>/dev/null || cat cpu/cpu.cfs_quota_us";

fn limits_of(cluster: &Cluster<'_, '_>, pod: &str, wanted: [u64; 2]) -> Result<()> {
    let printed = cluster.kubectl.exec(pod, LIMITS)?;
    let seen: Vec<u64> = printed.split_whitespace().map_while(|word| word.parse().ok()).collect();
    ensure!(seen == wanted, "the cgroup of {pod} has {printed:?} instead of {wanted:?}");
    Ok(())
}

pub(super) fn limits(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.wait("pod/limited", "condition=Ready", PATIENCE)?;
    limits_of(cluster, "limited", [64 << 20, 20_000])?;
    let pod = cluster.kubectl.get(&["pod/limited"])?;
    let resources = &container(&pod, "limited")["resources"];
    ensure!(resources["limits"]["memory"] == "64Mi" && resources["limits"]["cpu"] == "200m", "its status: {resources}");
    Ok(())
}

pub(super) fn user(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.wait("pod/user", "condition=Ready", PATIENCE)?;
    let seen = cluster.kubectl.exec("user", "id -u; id -g; id -G; touch /new 2>/dev/null || echo read-only")?;
    ensure!(seen == "1234\n2345\n2345 3456\nread-only\n", "the user sees {seen:?}");
    let rights = cluster.kubectl.exec("user", "grep -E 'CapEff|NoNewPrivs' /proc/self/status")?;
    let words: Vec<&str> = rights.split_whitespace().collect();
    ensure!(words == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"], "the user has {rights}");
    Ok(())
}

pub(super) fn out_of_memory(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let pod = cluster.kubectl.until("pod/oom", PATIENCE, |pod| pod["status"]["phase"] == "Failed")?;
    let ended = &container(&pod, "oom")["state"]["terminated"];
    ensure!(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137, "it ended as {ended}");
    Ok(())
}

pub(super) fn resize(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/limited", "condition=Ready", PATIENCE)?;
    let before = kubectl.get(&["pod/limited"])?;
    let patch = "{\"spec\": {\"containers\": [{\"name\": \"limited\", \
         \"resources\": {\"limits\": {\"cpu\": \"400m\", \"memory\": \"96Mi\"}, \"requests\": {\"cpu\": \"150m\"}}}]}}";
    kubectl.run(&["patch", "pod/limited", "--subresource=resize", "-p", patch])?;
    let after = kubectl
        .until("pod/limited", PATIENCE, |pod| container(pod, "limited")["resources"]["limits"]["memory"] == "96Mi")
        .context("the status does not show the new limits")?;
    until(PATIENCE, || limits_of(cluster, "limited", [96 << 20, 40_000]))?;
    let (old, new) = (container(&before, "limited"), container(&after, "limited"));
    ensure!(old["containerID"] == new["containerID"], "it was restarted: {new}");
    Ok(())
}

pub(super) fn evicted(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let pod = cluster.kubectl.until("pod/evicted", PATIENCE, |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(pod["status"]["reason"] == "Evicted", "{}", pod["status"]);
    Ok(())
}
