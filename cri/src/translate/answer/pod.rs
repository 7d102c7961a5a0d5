//! Pods in CRI's types.

use std::net::IpAddr;

use host::PodId;
use proto::v1::{
    ContainerStatus, LinuxPodSandboxStatus, Namespace, NamespaceOption, PodIp, PodSandbox, PodSandboxAttributes,
    PodSandboxFilter, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

use super::selects;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, PodPhase, PodRecord};

pub(crate) fn state(record: &PodRecord) -> PodSandboxState {
    match record.phase {
        PodPhase::Ready => PodSandboxState::SandboxReady,
        PodPhase::Creating | PodPhase::Stopping | PodPhase::Failed | PodPhase::Stopped => {
            PodSandboxState::SandboxNotready
        }
    }
}

pub(crate) fn item(record: &PodRecord) -> PodSandbox {
    PodSandbox {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: state(record).into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn status(record: &PodRecord) -> PodSandboxStatus {
    PodSandboxStatus {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: state(record).into(),
        created_at: record.created_at,
        network: Some(network(record)),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(namespaces(record)) }) }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn attributes(record: &PodRecord) -> PodSandboxAttributes {
    PodSandboxAttributes {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

/// The statuses of a pod's containers, the newest first: with EventedPLEG kubelet takes the first of a name for the current one
/// (kuberuntime's findContainerStatusByName).
pub(crate) fn containers(node: &Node, id: &PodId) -> Vec<ContainerStatus> {
    let mut containers = node.store.containers_of(id);
    containers.sort_by_key(|one| std::cmp::Reverse(one.created_at));
    let seen = containers.iter().filter(|one| one.phase != ContainerPhase::Creating);
    seen.map(|one| super::container::status(node, one)).collect()
}

/// Whether it passes a list's filter, whose id is a full one.
pub(crate) fn passes(record: &PodRecord, filter: &PodSandboxFilter) -> bool {
    (filter.id.is_empty() || filter.id == record.id.as_str())
        && filter.state.is_none_or(|wanted| wanted.state == i32::from(state(record)))
        && selects(&filter.label_selector, &record.config.labels)
}

/// A pod on the host's network, or a stopped one, has no address.
fn network(record: &PodRecord) -> PodSandboxNetworkStatus {
    let mut addresses =
        record.attachment.iter().flat_map(|attachment| attachment.addresses.iter()).map(IpAddr::to_string);
    let ip = addresses.next().unwrap_or_default();
    PodSandboxNetworkStatus { ip, additional_ips: addresses.map(|ip| PodIp { ip }).collect() }
}

fn namespaces(record: &PodRecord) -> NamespaceOption {
    let context = record.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}
