//! ListPodSandboxMetrics: the usage of pods and containers as metrics. What the kernel does not report is left out.

use std::sync::Arc;

use network::Counters;
use nix::sys::statvfs::{Statvfs, statvfs};
use proto::v1::{
    ContainerMetrics, ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, Metric, PodSandboxMetrics,
};

use super::metrics::{self, CONTAINER, POD, metrics};
use super::{limit, read_each};
use crate::error::Error;
use crate::state::clock::now;
use crate::state::names;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord, PodPhase, PodRecord};

pub(crate) async fn call(
    node: &Arc<Node>,
    _request: ListPodSandboxMetricsRequest,
) -> Result<ListPodSandboxMetricsResponse, Error> {
    limit(ListPodSandboxMetricsResponse { pod_metrics: all(node).await }, "StreamPodSandboxMetrics")
}

pub(crate) async fn all(node: &Arc<Node>) -> Vec<PodSandboxMetrics> {
    let mut pods = node.store.pods();
    pods.retain(|pod| pod.phase == PodPhase::Ready);
    node.block(move |node| {
        let roots = Roots::look(node);
        let counters = node.network.all_counters().unwrap_or_default();
        read_each(&pods, |pod| of_pod(node, &roots, pod, counters.get(&pod.id)))
    })
    .await
}

/// The file system of all containers' roots: one for each listing.
struct Roots {
    mountpoint: String,
    disk: Option<Statvfs>,
}

impl Roots {
    fn look(node: &Node) -> Self {
        let mountpoint = node.images.mountpoint();
        Self { disk: statvfs(&mountpoint).ok(), mountpoint: mountpoint.display().to_string() }
    }
}

/// The metrics of a pod and its running containers. Blocking.
fn of_pod(node: &Node, roots: &Roots, pod: &PodRecord, counters: Option<&Counters>) -> PodSandboxMetrics {
    let containers = node.store.containers_of(&pod.id);
    PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: counters.map(|counters| of_network(pod, counters)).unwrap_or_default(),
        container_metrics: containers.iter().filter_map(|one| of_container(node, roots, pod, one)).collect(),
    }
}

fn of_network(pod: &PodRecord, counters: &Counters) -> Vec<Metric> {
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    let labels = [metadata.name, metadata.namespace, String::new(), pod.id.to_string(), String::new()];
    metrics(POD, counters, &labels, now())
}

/// None for a container that does not run, or has just ended.
fn of_container(node: &Node, roots: &Roots, pod: &PodRecord, record: &ContainerRecord) -> Option<ContainerMetrics> {
    let ContainerPhase::Running { started_at, .. } = record.phase else { return None };
    let now = now();
    let reading = metrics::Container {
        usage: node.runtime.container_usage(&record.id).ok()?,
        details: node.runtime.container_details(&record.id).ok()?,
        resources: record.resources.0.clone(),
        written: node.written(&record.id),
        disk: roots.disk,
        mountpoint: roots.mountpoint.clone(),
        started_at,
        now,
    };
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    let name = names::own(record.config.metadata.as_ref()).to_owned();
    let labels = [metadata.name, metadata.namespace, name, record.id.to_string(), image_name(node, record)];
    Some(ContainerMetrics { container_id: record.id.to_string(), metrics: metrics(CONTAINER, &reading, &labels, now) })
}

/// The image's name as a person gave it. kubelet asks for containers by the image's id, and names it in a field of its own.
fn image_name(node: &Node, record: &ContainerRecord) -> String {
    let image = record.config.image.clone().unwrap_or_default();
    let known = || node.images.find(&record.image_id).ok().flatten();
    let first = || known().and_then(|image| image.repo_tags.into_iter().chain(image.repo_digests).next());
    match image.user_specified_image {
        name if !name.is_empty() => name,
        _ => first().unwrap_or(image.image),
    }
}
