//! ListPodSandboxMetrics: the usage of pods and containers as metrics with cAdvisor's names, which dashboards look for. Numbers are
//! integers, as CRI has them; what the kernel does not report is left out.

use std::sync::Arc;

use network::Counters;
use proto::v1::{
    ContainerMetrics, ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, Metric, MetricType,
    PodSandboxMetrics, UInt64Value,
};
use runtime::Usage;

use super::limit;
use crate::error::Error;

use crate::state::clock::now;
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
    node.block(move |node| pods.iter().map(|pod| of(node, pod)).collect()).await
}

/// A metric's name, meaning and labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// In the order of their values.
    pub(crate) labels: &'static [&'static str],
    kind: MetricType,
}

/// containerd's labels in its order, for readers of its metrics.
const CONTAINER_LABELS: &[&str] = &["pod", "namespace", "container", "id", "image"];
const POD_LABELS: &[&str] = &["pod", "namespace", "container", "id", "image", "interface"];
const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

const fn container(name: &'static str, help: &'static str, kind: MetricType) -> Descriptor {
    Descriptor { name, help, labels: CONTAINER_LABELS, kind }
}

const fn pod(name: &'static str, help: &'static str) -> Descriptor {
    Descriptor { name, help, labels: POD_LABELS, kind: MetricType::Counter }
}

/// In the order of [`container_values`].
pub(crate) const CONTAINER_METRICS: &[Descriptor] = &[
    container("container_cpu_usage_seconds_total", "CPU time, in seconds", MetricType::Counter),
    container("container_memory_usage_bytes", "Memory in use, in bytes", MetricType::Gauge),
    container("container_memory_working_set_bytes", "Memory that cannot be reclaimed, in bytes", MetricType::Gauge),
    container("container_memory_rss", "Resident memory, in bytes", MetricType::Gauge),
    container("container_memory_swap", "Swap in use, in bytes", MetricType::Gauge),
    container("container_spec_memory_limit_bytes", "The limit on memory, in bytes", MetricType::Gauge),
    container("container_processes", "Processes", MetricType::Gauge),
];

/// In the order of [`pod_values`].
pub(crate) const POD_METRICS: &[Descriptor] = &[
    pod("container_network_receive_bytes_total", "Bytes received"),
    pod("container_network_receive_packets_total", "Packets received"),
    pod("container_network_receive_errors_total", "Packets received in error"),
    pod("container_network_receive_packets_dropped_total", "Received packets dropped"),
    pod("container_network_transmit_bytes_total", "Bytes sent"),
    pod("container_network_transmit_packets_total", "Packets sent"),
    pod("container_network_transmit_errors_total", "Packets that could not be sent"),
    pod("container_network_transmit_packets_dropped_total", "Packets dropped before they were sent"),
];

fn container_values(usage: &Usage) -> [Option<u64>; CONTAINER_METRICS.len()] {
    [
        usage.cpu_nanoseconds.map(|nanoseconds| nanoseconds / NANOSECONDS_PER_SECOND),
        usage.memory_bytes,
        usage.working_set_bytes,
        usage.rss_bytes,
        usage.swap_bytes,
        usage.memory_limit_bytes,
        usage.processes,
    ]
}

fn pod_values(counters: &Counters) -> [Option<u64>; POD_METRICS.len()] {
    [
        counters.rx_bytes,
        counters.rx_packets,
        counters.rx_errors,
        counters.rx_dropped,
        counters.tx_bytes,
        counters.tx_packets,
        counters.tx_errors,
        counters.tx_dropped,
    ]
    .map(Some)
}

/// The metrics of a pod and its running containers. Blocking.
pub(crate) fn of(node: &Node, pod: &PodRecord) -> PodSandboxMetrics {
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    let of_interface = node.network.counters(&pod.id).ok().map(|counters| {
        let labels = [
            metadata.name.clone(),
            metadata.namespace.clone(),
            String::new(),
            pod.id.to_string(),
            String::new(),
            counters.interface.clone(),
        ];
        metrics(POD_METRICS, &pod_values(&counters), &labels)
    });
    let mut containers = node.store.containers_of(&pod.id);
    containers.retain(|one| matches!(one.phase, ContainerPhase::Running { .. }));
    PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: of_interface.unwrap_or_default(),
        container_metrics: containers.iter().filter_map(|one| of_container(node, pod, one)).collect(),
    }
}

fn of_container(node: &Node, pod: &PodRecord, record: &ContainerRecord) -> Option<ContainerMetrics> {
    let usage = node.runtime.container_usage(&record.id).ok()?;
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    let name = record.config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let image = record.config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    let labels = [metadata.name, metadata.namespace, name, record.id.to_string(), image];
    let metrics = metrics(CONTAINER_METRICS, &container_values(&usage), &labels);
    Some(ContainerMetrics { container_id: record.id.to_string(), metrics })
}

fn metrics(descriptors: &[Descriptor], values: &[Option<u64>], labels: &[String]) -> Vec<Metric> {
    let timestamp = now();
    let metric = |(descriptor, value): (&Descriptor, &Option<u64>)| {
        Some(Metric {
            name: descriptor.name.to_owned(),
            timestamp,
            metric_type: descriptor.kind.into(),
            label_values: labels.to_vec(),
            value: Some(UInt64Value { value: (*value)? }),
        })
    };
    descriptors.iter().zip(values).filter_map(metric).collect()
}
