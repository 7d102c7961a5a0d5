//! Publishes the events of pods and containers to the clients of GetContainerEvents.

use proto::v1::{ContainerEventResponse, ContainerEventType};

use crate::state::clock::now;
use crate::state::node::Node;
use crate::state::record::{ContainerRecord, PodRecord};
use crate::translate::answer;

/// Publishes an event of a pod. CRI has it as the event of a container with the pod's id.
pub(crate) fn publish_pod(node: &Node, pod: &PodRecord, event: ContainerEventType) {
    publish(node, pod, pod.id.as_str(), event);
}

pub(crate) fn publish_container(node: &Node, container: &ContainerRecord, event: ContainerEventType) {
    if let Some(pod) = node.store.pod(&container.pod) {
        publish(node, &pod, container.id.as_str(), event);
    }
}

fn publish(node: &Node, pod: &PodRecord, id: &str, event: ContainerEventType) {
    if node.subscribers.is_empty() {
        return;
    }
    node.subscribers.send(ContainerEventResponse {
        container_id: id.to_owned(),
        container_event_type: event.into(),
        created_at: now(),
        pod_sandbox_status: Some(answer::pod::status(pod)),
        containers_statuses: answer::pod::containers(node, &pod.id),
    });
}
