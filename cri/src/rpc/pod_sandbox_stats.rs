//! PodSandboxStats: the usage of one pod: the sum over its containers, and the counters of its interface.

use std::sync::Arc;

use network::Counters;
use proto::v1::{
    ContainerStats, CpuUsage, LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxStats,
    PodSandboxStatsRequest, PodSandboxStatsResponse, ProcessUsage, UInt64Value,
};

use super::container_stats::{self, value};
use crate::error::Error;
use crate::state::clock::now;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, PodRecord};
use crate::translate::answer;

pub(crate) async fn call(node: &Arc<Node>, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Error> {
    let pod = node.store.find_pod(&request.pod_sandbox_id)?;
    let stats = node.block(move |node| of(node, &pod, node.network.counters(&pod.id).ok().as_ref())).await;
    Ok(PodSandboxStatsResponse { stats: Some(stats) })
}

/// The usage of a pod with these counters of its interface. Blocking.
pub(crate) fn of(node: &Node, pod: &PodRecord, counters: Option<&Counters>) -> PodSandboxStats {
    let timestamp = now();
    let mut running = node.store.containers_of(&pod.id);
    running.retain(|one| matches!(one.phase, ContainerPhase::Running { .. }));
    let read = running.iter().map(|one| container_stats::read(node, one));
    let (containers, processes): (Vec<_>, Vec<_>) = read.unzip();
    let processes = processes.into_iter().flatten().reduce(u64::saturating_add);
    PodSandboxStats {
        attributes: Some(answer::pod::attributes(pod)),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(cpu(timestamp, &containers)),
            memory: Some(memory(timestamp, &containers)),
            network: counters.map(network),
            process: Some(ProcessUsage { timestamp, process_count: value(processes) }),
            containers,
            io: None,
        }),
        windows: None,
    }
}

fn cpu(timestamp: i64, containers: &[ContainerStats]) -> CpuUsage {
    let all = || containers.iter().filter_map(|one| one.cpu.as_ref());
    CpuUsage {
        timestamp,
        usage_core_nano_seconds: sum(all().map(|cpu| cpu.usage_core_nano_seconds)),
        usage_nano_cores: sum(all().map(|cpu| cpu.usage_nano_cores)),
        psi: None,
    }
}

fn memory(timestamp: i64, containers: &[ContainerStats]) -> MemoryUsage {
    let all = || containers.iter().filter_map(|one| one.memory.as_ref());
    MemoryUsage {
        timestamp,
        working_set_bytes: sum(all().map(|memory| memory.working_set_bytes)),
        available_bytes: None,
        usage_bytes: sum(all().map(|memory| memory.usage_bytes)),
        rss_bytes: sum(all().map(|memory| memory.rss_bytes)),
        page_faults: sum(all().map(|memory| memory.page_faults)),
        major_page_faults: sum(all().map(|memory| memory.major_page_faults)),
        psi: None,
    }
}

/// The sum of the known values; 0 for a pod without running containers.
fn sum(values: impl Iterator<Item = Option<UInt64Value>>) -> Option<UInt64Value> {
    Some(UInt64Value { value: values.flatten().map(|value| value.value).fold(0, u64::saturating_add) })
}

fn network(counters: &Counters) -> NetworkUsage {
    let interface = NetworkInterfaceUsage {
        name: counters.interface.clone(),
        rx_bytes: value(Some(counters.rx_bytes)),
        rx_errors: value(Some(counters.rx_errors)),
        tx_bytes: value(Some(counters.tx_bytes)),
        tx_errors: value(Some(counters.tx_errors)),
    };
    NetworkUsage { timestamp: now(), default_interface: Some(interface.clone()), interfaces: vec![interface] }
}
