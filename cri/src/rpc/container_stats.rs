//! ContainerStats: the usage of one container.

use std::sync::Arc;

use proto::v1::{
    ContainerStats, ContainerStatsRequest, ContainerStatsResponse, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    MemoryUsage, SwapUsage, UInt64Value,
};

use crate::error::Error;
use crate::state::clock::now;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord};
use crate::translate::answer;

pub(crate) async fn call(node: &Arc<Node>, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    let (stats, _) = node.block(move |node| read(node, &container)).await;
    Ok(ContainerStatsResponse { stats: Some(stats) })
}

/// Reads the usage of a container and the number of its processes. What the kernel does not report is left out; a container that
/// does not run has disk usage only. Blocking.
pub(crate) fn read(node: &Node, record: &ContainerRecord) -> (ContainerStats, Option<u64>) {
    let read = sample(node, record);
    if node.store.container(&record.id).is_none() {
        // It was removed meanwhile: nobody else would forget its samples.
        node.samples.forget(&record.id);
    }
    read
}

fn sample(node: &Node, record: &ContainerRecord) -> (ContainerStats, Option<u64>) {
    let attributes = Some(answer::container::attributes(record));
    let writable_layer = writable_layer(node, record);
    let ContainerPhase::Running { started_at, .. } = record.phase else {
        return (ContainerStats { attributes, writable_layer, ..ContainerStats::default() }, None);
    };
    let timestamp = now();
    // A container that has just ended has no usage.
    let usage = node.runtime.container_usage(&record.id).unwrap_or_default();
    let rate = usage.cpu_nanoseconds.map(|cpu| node.samples.rate(&record.id, timestamp, cpu, started_at));
    let available = |limit: u64| limit.saturating_sub(usage.working_set_bytes.unwrap_or_default());
    let stats = ContainerStats {
        attributes,
        cpu: Some(CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(usage.cpu_nanoseconds),
            usage_nano_cores: value(rate),
            psi: None,
        }),
        memory: Some(MemoryUsage {
            timestamp,
            working_set_bytes: value(usage.working_set_bytes),
            available_bytes: value(usage.memory_limit_bytes.map(available)),
            usage_bytes: value(usage.memory_bytes),
            rss_bytes: value(usage.rss_bytes),
            page_faults: value(usage.page_faults),
            major_page_faults: value(usage.major_page_faults),
            psi: None,
        }),
        writable_layer,
        swap: usage.swap_bytes.map(|bytes| SwapUsage {
            timestamp,
            swap_available_bytes: None,
            swap_usage_bytes: value(Some(bytes)),
        }),
        io: None,
    };
    (stats, usage.processes)
}

fn writable_layer(node: &Node, record: &ContainerRecord) -> Option<FilesystemUsage> {
    let written = node.written(&record.id)?;
    Some(FilesystemUsage {
        timestamp: written.at,
        fs_id: Some(FilesystemIdentifier { mountpoint: node.images.mountpoint().display().to_string() }),
        used_bytes: value(Some(written.usage.bytes)),
        inodes_used: value(Some(written.usage.inodes)),
    })
}

pub(crate) fn value(number: Option<u64>) -> Option<UInt64Value> {
    number.map(|value| UInt64Value { value })
}
