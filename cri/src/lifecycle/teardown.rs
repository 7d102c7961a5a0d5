//! The tear-down of Stop, Remove, roll-back and recovery. It needs only the id, tries every step, collects all errors, and keeps the
//! record until every step has succeeded, so that the call can be repeated. It blocks, and the caller holds the locks.

use host::{ContainerId, Failures, PodId};
use proto::v1::ContainerEventType;

use crate::error::Error;
use crate::lifecycle::events;
use crate::lifecycle::exits;
use crate::state::names;
use crate::state::node::Node;
use crate::state::record::{Change, ContainerPhase, ContainerRecord, PodPhase, PodRecord};
use crate::translate;

/// How much of a pod to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Everything that the kernel holds. The records of the pod and its containers stay, and the containers' roots.
    Stopped,
    /// Everything.
    Removed,
}

/// Tears a pod down. Idempotent; removes what the kernel holds under this id even without a record. Reports all errors; the pod
/// then stays in [`PodPhase::Stopping`].
pub(crate) fn pod(node: &Node, id: &PodId, until: Until) -> Result<(), Error> {
    // The record comes first: without it nobody would finish a tear-down that a crash interrupts.
    let record = node.store.change_pod(id, |record| record.phase = record.phase.max(PodPhase::Stopping))?;
    let was_running = record.as_ref().is_some_and(|record| record.attachment.is_some());
    let mut failures = Failures::<Error>::default();
    // Containers without a record go with the pod. Listing them here would make stopping a node's pods quadratic, and recovery
    // has removed them.
    for container in node.store.containers_of(id) {
        let outcome = match until {
            Until::Stopped => stop_container(node, &container.id),
            Until::Removed => self::container(node, &container.id),
        };
        failures.keep(outcome);
    }
    remove_kernel_objects(node, id, &mut failures);
    if let Some(spare) = record.as_ref().and_then(|record| record.spare.as_ref()) {
        remove_kernel_objects(node, spare, &mut failures);
    }
    failures.result(Error::several(format!("cannot tear down pod {}", id.short())))?;
    let Some(record) = record else { return Ok(()) };
    let (phase, attachment, spare) = (PodPhase::Stopped, None, None);
    let stopped = PodRecord { phase, attachment, spare, ..(*record).clone() };
    // No client has the id of a failed pod: this completes its roll-back. A pod that is to be removed is not recorded as stopped
    // first: should the deletion fail, its phase still says that there is something to do.
    let remove = until == Until::Removed || record.phase == PodPhase::Failed;
    if remove {
        node.store.delete_pod(id)?;
    } else {
        node.store.change_pod(id, |record| *record = stopped.clone())?;
    }
    if record.phase != PodPhase::Stopped {
        // Only once: another pod may have the addresses of one that was stopped before.
        let name = record.config.metadata.as_ref().map(names::namespaced).unwrap_or_default();
        node.release(&name, &record.network.addresses);
    }
    if was_running {
        events::publish_pod(node, &stopped, ContainerEventType::ContainerStoppedEvent);
    }
    if remove {
        if let Some(metadata) = &stopped.config.metadata {
            node.names.release(&names::of_pod(metadata), id.as_str());
        }
        events::publish_pod(node, &stopped, ContainerEventType::ContainerDeletedEvent);
    }
    Ok(())
}

/// Removes the network first, from outside, while the place still exists and its connections can be dropped.
fn remove_kernel_objects(node: &Node, id: &PodId, failures: &mut Failures<Error>) {
    let place = node.runtime.place(id).ok();
    failures.keep(node.network.detach(id, place.as_ref()));
    failures.keep(node.runtime.remove_pod(id));
}

/// Kills a container and records its exit. Idempotent.
pub(crate) fn stop_container(node: &Node, id: &ContainerId) -> Result<(), Error> {
    match node.runtime.kill_container(id) {
        Ok(()) | Err(runtime::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if exits::record(node, id)? {
        return Ok(());
    }
    Err(Error::State { what: format!("container {} was killed and still runs", id.short()) })
}

/// Removes a container, running or not. Idempotent; removes what the kernel holds under this id even without a record. Reports
/// all errors; the container then stays in [`ContainerPhase::Removing`].
pub(crate) fn container(node: &Node, id: &ContainerId) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    failures.keep(stop_container(node, id));
    let record = node.store.change_container(id, begin_removal)?;
    if failures.keep(node.runtime.remove_container(id)).is_some() {
        // Only after the mounts are gone: removing the root through a mount would delete the contents of a volume.
        if failures.keep(keep_snapshots(node, record.as_deref())).is_some() {
            failures.keep(node.images.discard(id));
        }
    }
    failures.result(Error::several(format!("cannot remove container {}", id.short())))?;
    let Some(record) = record else { return Ok(()) };
    node.store.delete_container(id)?;
    node.samples.forget(id);
    let pod = node.store.pod(&record.pod);
    if let (Some(metadata), Some(pod)) = (&record.config.metadata, pod.and_then(|pod| pod.config.metadata.clone())) {
        node.names.release(&names::of_container(metadata, &pod), id.as_str());
    }
    events::publish_container(node, &record, ContainerEventType::ContainerDeletedEvent);
    Ok(())
}

/// Moves a root with snapshots out of the way of its removal, if its pod wants them kept.
fn keep_snapshots(node: &Node, record: Option<&ContainerRecord>) -> Result<(), Error> {
    let Some(record) = record else { return Ok(()) };
    let pod = node.store.pod(&record.pod).filter(|pod| translate::storage::keeps_snapshots(&pod.config.annotations));
    let title = record.made.as_ref().map(|made| made.spec.title.clone()).unwrap_or_default();
    if pod.is_some() { Ok(node.images.keep_snapshots(&record.id, &title)?) } else { Ok(()) }
}

fn begin_removal(record: &mut ContainerRecord) {
    let ended = match &record.phase {
        ContainerPhase::Exited(ended) => Some(ended.clone()),
        ContainerPhase::Removing(ended) => ended.clone(),
        phase @ ContainerPhase::Running { .. } => Some(exits::describe_lost(phase, "it was removed while it ran")),
        ContainerPhase::Creating | ContainerPhase::Created => None,
    };
    record.phase = ContainerPhase::Removing(ended);
}

/// Removes a spare that no pod has taken. Idempotent. Reports all errors; the spare's record then stays.
pub(crate) fn spare(node: &Node, id: &PodId) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    remove_kernel_objects(node, id, &mut failures);
    failures.result(Error::several(format!("cannot remove spare {}", id.short())))?;
    Ok(node.store.disk().apply(&[Change::DeleteSpare(id)])?)
}
