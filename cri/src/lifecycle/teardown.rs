//! The one way that anything is removed. Stop, Remove, the roll-back of a create and the sweep at start-up are this: by the
//! id alone, every step tried, all errors collected, and the record kept until every step has succeeded, so that the same
//! call can be made again. All of it is blocking, and the caller holds the locks.

use host::{ContainerId, PodId};
use proto::v1::ContainerEventType;

use crate::error::{Attempts, Error};
use crate::lifecycle::events;
use crate::lifecycle::exits;
use crate::state::names;
use crate::state::node::Node;
use crate::state::record::{Change, ContainerPhase, ContainerRecord, PodPhase, PodRecord};

/// How much of a pod is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Everything that the kernel holds; the records of it and its containers stay, and their root file systems.
    Stopped,
    /// That, and everything else.
    Removed,
}

/// Tears a pod down. Missing: done already, and what the kernel holds under this id goes all the same.
///
/// # Errors
/// All that went wrong; the pod then stays [`PodPhase::Stopping`].
pub(crate) fn pod(node: &Node, id: &PodId, until: Until) -> Result<(), Error> {
    // What cannot be written down is not begun: after a crash half way nobody would finish it.
    let record = node.store.change_pod(id, |record| record.phase = record.phase.max(PodPhase::Stopping))?;
    let was_running = record.as_ref().is_some_and(|record| record.attachment.is_some());
    let mut attempts = Attempts::default();
    // Containers without a record go with the pod: asking the kernel for them here would make the stop of a node's pods
    // quadratic, and recovery has looked.
    for container in node.store.containers_of(id) {
        let outcome = match until {
            Until::Stopped => stop_container(node, &container.id),
            Until::Removed => self::container(node, &container.id),
        };
        attempts.note(outcome);
    }
    kernel_objects(node, id, &mut attempts);
    if let Some(spare) = record.as_ref().and_then(|record| record.spare.as_ref()) {
        kernel_objects(node, spare, &mut attempts);
    }
    attempts.finish(|| format!("cannot tear down pod {}", id.short()))?;
    let Some(record) = record else { return Ok(()) };
    let stopped = node.store.change_pod(id, |record| {
        record.phase = PodPhase::Stopped;
        record.attachment = None;
        record.spare = None;
    })?;
    if record.phase != PodPhase::Stopped {
        // Only now: the addresses of a pod that was stopped before may be another's.
        node.release(&record.network.addresses);
    }
    if was_running {
        events::publish_pod(node, stopped.as_deref().unwrap_or(&record), ContainerEventType::ContainerStoppedEvent);
    }
    // Nobody was given the id of a pod that failed: its roll-back is done, and its name is free.
    let failed = record.phase == PodPhase::Failed;
    if failed || until == Until::Removed { forget_pod(node, &record) } else { Ok(()) }
}

fn forget_pod(node: &Node, record: &PodRecord) -> Result<(), Error> {
    node.store.delete_pod(&record.id)?;
    if let Some(metadata) = &record.config.metadata {
        node.names.release(&names::of_pod(metadata), record.id.as_str());
    }
    events::publish_pod(node, record, ContainerEventType::ContainerDeletedEvent);
    Ok(())
}

/// The network first, from outside, while the place is still there to drop its connections; then the place.
fn kernel_objects(node: &Node, id: &PodId, attempts: &mut Attempts) {
    let place = node.runtime.place(id).ok();
    attempts.note(node.network.detach(id, place.as_ref()));
    attempts.note(node.runtime.remove_pod(id));
}

/// Ends a container, and notes how it ended. Not running: done already.
///
/// # Errors
/// A process that does not die.
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

/// Removes a container, running or not. Missing: done already, and what the kernel holds under this id goes all the same.
///
/// # Errors
/// All that went wrong; the container then stays [`ContainerPhase::Removing`].
pub(crate) fn container(node: &Node, id: &ContainerId) -> Result<(), Error> {
    let mut attempts = Attempts::default();
    attempts.note(stop_container(node, id));
    let record = node.store.change_container(id, begin_removal)?;
    if attempts.note(node.runtime.remove_container(id)).is_some() {
        // Only now: through a mount that is still there, the removal of the root would delete what is a volume's.
        attempts.note(node.images.discard(id));
    }
    attempts.finish(|| format!("cannot remove container {}", id.short()))?;
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

fn begin_removal(record: &mut ContainerRecord) {
    let ended = match &record.phase {
        ContainerPhase::Exited(ended) => Some(ended.clone()),
        ContainerPhase::Removing(ended) => ended.clone(),
        phase @ ContainerPhase::Running { .. } => Some(exits::describe_lost(phase, "it was removed while it ran")),
        ContainerPhase::Creating | ContainerPhase::Created => None,
    };
    record.phase = ContainerPhase::Removing(ended);
}

/// Removes a spare that no pod has taken. Missing: done already.
///
/// # Errors
/// All that went wrong; its record stays.
pub(crate) fn spare(node: &Node, id: &PodId) -> Result<(), Error> {
    let mut attempts = Attempts::default();
    kernel_objects(node, id, &mut attempts);
    attempts.finish(|| format!("cannot remove spare {}", id.short()))?;
    Ok(node.store.disk().apply(&[Change::DeleteSpare(id)])?)
}
