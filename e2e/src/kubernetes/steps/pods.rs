//! The life of a pod: the order of containers, shared namespaces, probes, hooks, and exits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::kubernetes::kubectl::{container, has};
use crate::wait::until;

fn ended(status: &Value) -> &Value {
    &status["state"]["terminated"]
}

pub(super) fn init(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/init", "condition=Ready", PATIENCE)?;
    let order = kubectl.exec("init:main", "cat /shared/order")?;
    ensure!(order == "first\nsecond\nsidecar\nmain\n", "they began in the order {order:?}");
    // A sidecar does not keep a pod from finishing, and stops after the containers.
    let pod = kubectl.until("pod/init-ends", PATIENCE, |pod| pod["status"]["phase"] == "Succeeded")?;
    let times = ["main", "sidecar"].map(|name| ended(container(&pod, name))["finishedAt"].as_str());
    ensure!(times[0].is_some() && times[0] <= times[1], "main and the sidecar ended at {times:?}");
    let pod = kubectl.until("pod/init-fails", PATIENCE, |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(ended(container(&pod, "fails"))["exitCode"] == 9, "{}", pod["status"]);
    ensure!(container(&pod, "main")["state"]["waiting"].is_object(), "main began: {}", pod["status"]);
    Ok(())
}

pub(super) fn shared(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/shared", "condition=Ready", PATIENCE)?;
    for name in ["shared:server", "shared:client"] {
        let host = kubectl.exec(name, "hostname")?;
        ensure!(host.trim() == "shared-name", "{name}: the host's name is {host}");
    }
    let processes = kubectl.exec("shared:client", "ps -o args")?;
    for wanted in ["httpd -f", "sleep 100000"] {
        ensure!(processes.contains(wanted), "the client sees no {wanted:?}:\n{processes}");
    }
    // Another container can signal the server's process, like a sidecar that reloads its configuration.
    kubectl.exec("shared:client", "kill -0 $(pidof httpd)").map(drop)
}

pub(super) fn probes(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    let ready = |name: &'static str| move |pod: &Value| container(pod, name)["ready"] == true;
    for name in ["http", "grpc"] {
        kubectl.until("pod/probes", PATIENCE, ready(name)).with_context(|| format!("{name} is not ready"))?;
    }
    let gated = kubectl.get(&["pod/probes"])?;
    ensure!(!has(&gated, "Ready") && container(&gated, "gate")["ready"] == false, "{}", gated["status"]);
    kubectl.exec("probes:gate", "touch /tmp/ready")?;
    kubectl.wait("pod/probes", "condition=Ready", PATIENCE)?;
    kubectl.exec("probes:gate", "rm /tmp/ready")?;
    kubectl.wait("pod/probes", "condition=Ready=False", PATIENCE)?;
    kubectl.exec("probes:gate", "touch /tmp/ready")?;
    kubectl.exec("probes:gate", "wget -q -O - http://127.0.0.1:8080/make-not-serving")?;
    kubectl.until("pod/probes", PATIENCE, |pod| container(pod, "grpc")["ready"] == false)?;
    kubectl.exec("probes:gate", "wget -q -O - http://127.0.0.1:8080/make-serving")?;
    kubectl.wait("pod/probes", "condition=Ready", PATIENCE)?;
    let pod = kubectl.get(&["pod/probes"])?;
    let restarts: Vec<_> = ["gate", "http", "grpc"].map(|name| container(&pod, name)["restartCount"].clone()).into();
    ensure!(restarts.iter().all(|count| *count == 0), "restarted: {restarts:?}");
    Ok(())
}

pub(super) fn liveness(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    let restarted = |pod: &Value| container(pod, "unwell")["restartCount"].as_u64() >= Some(1);
    let pod = kubectl.until("pod/unwell", PATIENCE, restarted)?;
    let last = &container(&pod, "unwell")["lastState"]["terminated"];
    // SIGKILL after the grace period: a shell as process 1 ignores SIGTERM.
    ensure!(last["exitCode"] == 137, "its last state is {last}");
    Ok(())
}

pub(super) fn crash(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    let waits = |pod: &Value| container(pod, "crash")["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = kubectl.until("pod/crash", PATIENCE, waits)?;
    let last = &container(&pod, "crash")["lastState"]["terminated"];
    ensure!(last["exitCode"] == 3 && last["message"] == "last words", "its last state is {last}");
    let pod = kubectl.until("pod/crash-log", PATIENCE, |pod| pod["status"]["phase"] == "Failed")?;
    let last = ended(container(&pod, "crash"));
    ensure!(last["exitCode"] == 4 && last["message"] == "from the log\n", "{last}");
    let pod = kubectl.until("pod/crash-on-failure", PATIENCE, |pod| pod["status"]["phase"] == "Succeeded")?;
    ensure!(container(&pod, "second-time")["restartCount"] == 1, "{}", pod["status"]);
    let pod = kubectl.until("pod/crash-no-program", PATIENCE, |pod| pod["status"]["phase"] == "Failed")?;
    let last = ended(container(&pod, "missing"));
    let says = last["message"].as_str().unwrap_or_default();
    ensure!(says.contains("/no/such/program"), "a program that is not there: {last}");
    Ok(())
}

pub(super) fn hooks(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    let told = cluster.host_dir().join("hooks");
    kubectl.wait("pod/hooks", "condition=Ready", PATIENCE)?;
    ensure!(std::fs::read_to_string(&told)? == "post-start\n", "the hook after the start did not run");
    let start = Instant::now();
    kubectl.run(&["delete", "pod/hooks"])?;
    let took = start.elapsed();
    let seen = std::fs::read_to_string(&told)?;
    ensure!(seen == "post-start\npre-stop\nterm\n", "what was called: {seen:?}");
    ensure!(took < Duration::from_secs(20), "it obeyed SIGTERM and took {took:?}");

    kubectl.wait("pod/stubborn", "condition=Ready", PATIENCE)?;
    let start = Instant::now();
    kubectl.run(&["delete", "pod/stubborn"])?;
    let took = start.elapsed();
    ensure!(took > Duration::from_secs(3) && took < Duration::from_secs(30), "with a grace of 4 s it took {took:?}");

    until(PATIENCE, || {
        let events = kubectl.run(&["get", "events", "--field-selector", "involvedObject.name=hook-fails"])?;
        ensure!(events.contains("FailedPostStartHook"), "no event of the hook that fails:\n{events}");
        Ok(())
    })
}
