//! The steps of the scenario, in order. Each waits for its own objects, so that it can run alone.

mod images;
mod network;
mod pods;
mod resources;
pub(super) mod restarts;
pub(super) mod streams;
mod volumes;
mod workloads;

use anyhow::Result;

use super::Plan;
use super::cluster::Cluster;

pub(super) struct Step {
    pub(super) name: &'static str,
    /// Whether it is part of quick runs.
    pub(super) quick: bool,
    /// The manifest of its objects, if it has any.
    pub(super) manifest: &'static str,
    pub(super) run: fn(&mut Cluster<'_, '_>) -> Result<()>,
}

/// A manifest of e2e/kubernetes.
macro_rules! manifest {
    ($name:literal) => {
        include_str!(concat!("../../../kubernetes/manifests/", $name, ".yaml"))
    };
}

/// A table of steps with the manifest that they share.
macro_rules! steps {
    ($($manifest:literal: $($name:literal $quick:ident $run:path),+;)+) => {
        &[$($(Step { name: $name, quick: $quick, manifest: manifest!($manifest), run: $run }),+),+]
    };
}

/// quick: true where a step is part of `make test`.
pub(super) const STEPS: &[Step] = steps! {
    "workloads":
        "a Deployment rolls, scales and is undone" true workloads::deployment,
        "a Service answers its own pods too" true workloads::service,
        "a StatefulSet keeps its names" true workloads::stateful_set,
        "a DaemonSet on the host's network" true workloads::daemon_set,
        "Jobs complete and fail" true workloads::jobs;
    "init":
        "init containers and sidecars" true pods::init;
    "shared":
        "containers share localhost, name and processes" true pods::shared;
    "probes":
        "exec, http, tcp and grpc probes" true pods::probes,
        "a liveness probe that fails restarts" true pods::liveness;
    "crash":
        "crash loops and termination messages" true pods::crash;
    "hooks":
        "hooks and grace" true pods::hooks;
    "volumes":
        "volumes of every kind" true volumes::kinds,
        "a token of the API server" true volumes::token,
        "volumes follow their objects" true volumes::updates,
        "image volumes" true volumes::images;
    "resources":
        "limits are the cgroup's" true resources::limits,
        "users, groups, a read-only root" true resources::user,
        "a container without memory is OOMKilled" true resources::out_of_memory,
        "resources change in place" true resources::resize,
        "a pod that writes too much is evicted" false resources::evicted;
    "network":
        "ports of the host" true network::host_ports,
        "the host's network" true network::host_network,
        "DNS and hosts" true network::names;
    "images":
        "pull policies" true images::policies;
    "streams":
        "kubectl logs, logs -f, logs --previous" true streams::logs,
        "kubectl exec, exec -it" true streams::exec,
        "kubectl attach" true streams::attach,
        "kubectl cp" true streams::copy,
        "kubectl port-forward" true streams::port_forward,
        "kubectl debug" true streams::debug,
        "kubectl debug node" false streams::debug_node,
        "kubectl describe, events, top" true streams::describe,
        "logs are rotated" true streams::rotation;
    "workloads":
        "a CronJob runs" false workloads::cron_job;
    "restarts":
        "kubelet is killed and started" true restarts::kubelet,
        "Cellblock is killed and started" true restarts::cellblock,
        "both are killed and started" true restarts::both;
    "images":
        "dead containers are collected" false images::container_garbage,
        "unused images are collected" false images::image_garbage;
};

/// Selects the steps of a plan.
pub(super) fn selected(plan: &Plan) -> Vec<&'static Step> {
    let named = |step: &&Step| plan.only.as_ref().is_none_or(|only| step.name.contains(&**only));
    STEPS.iter().filter(|step| step.quick || !plan.quick).filter(named).collect()
}
