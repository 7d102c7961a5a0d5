//! StartContainer: starts a container once. A start that fails ends the container with exit code 128 and the reason StartError,
//! as in containerd (internal/cri/server/container_start.go).

use std::sync::Arc;
use std::time::Duration;

use host::ContainerId;
use proto::v1::{ContainerEventType, StartContainerRequest, StartContainerResponse};
use tracing::warn;

use crate::error::{Backend, Error};
use crate::lifecycle::events;
use crate::lifecycle::exits;
use crate::state::clock::{nanoseconds, now};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, Ended, PodPhase};

const START_ERROR: i32 = 128;
/// The pause before a failed start is ended again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn call(node: &Arc<Node>, request: StartContainerRequest) -> Result<StartContainerResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    let _lock = node.locks.lock_container(&container.pod, &container.id).await;
    let id = container.id.clone();
    node.block(move |node| start(node, &id)).await?;
    exits::watch(node, container.id.clone());
    Ok(StartContainerResponse {})
}

fn start(node: &Arc<Node>, id: &ContainerId) -> Result<(), Error> {
    check(node, id)?;
    let started = match node.runtime.start_container(id) {
        Ok(started) => started,
        Err(error) => settle(node, id, error)?,
    };
    let phase = ContainerPhase::Running { pid: started.pid, started_at: nanoseconds(started.at) };
    // It runs even if the disk fails: recovery asks the kernel.
    let (_, written) = node.store.learn_container(id, |record| record.phase = phase);
    if let Err(error) = written {
        warn!(container = id.short(), "it runs, and that is not on disk: {}", host::chain(&error));
    }
    if let Some(record) = node.store.container(id) {
        events::publish_container(node, &record, ContainerEventType::ContainerStartedEvent);
    }
    Ok(())
}

fn check(node: &Node, id: &ContainerId) -> Result<(), Error> {
    let record = node.store.container(id).ok_or_else(|| Error::NotFound { what: format!("container {id}") })?;
    if record.phase != ContainerPhase::Created {
        let state = crate::translate::answer::container::state(&record).as_str_name();
        return Err(Error::State {
            what: format!("container {} is in {state} state: it cannot be started", id.short()),
        });
    }
    let pod = node.store.pod(&record.pod).filter(|pod| pod.phase == PodPhase::Ready);
    pod.map(drop).ok_or_else(|| Error::State { what: format!("sandbox {} is not ready", record.pod.short()) })
}

/// Settles a start that failed. A container that runs, or did, was started by the server before this one, which died before it
/// recorded that, or by a call whose answer was lost. Any other has ended: left created, it would make kubelet create another
/// every few seconds, even under restartPolicy Never.
fn settle(node: &Arc<Node>, id: &ContainerId, error: runtime::Error) -> Result<runtime::Started, Error> {
    use runtime::ContainerState::{Exited, Running};
    if let Ok(Running(started) | Exited { started, .. }) = node.runtime.container_state(id) {
        return Ok(started);
    }
    // A monitor that did not answer in time may still start it.
    match node.runtime.kill_container(id) {
        Ok(()) | Err(runtime::Error::NotFound { .. }) => {}
        Err(error) => {
            warn!(container = id.short(), "cannot end a start that failed yet: {}", host::chain(&error));
            end_later(node, id);
        }
    }
    record_failure(node, id, &error);
    Err(Error::Backend(Backend::Runtime(error)))
}

/// Ends what a start may have left, as soon as it can be: its record says that it has ended, so nobody else looks after it.
fn end_later(node: &Arc<Node>, id: &ContainerId) {
    let (node, id) = (node.clone(), id.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RETRY).await;
            let id = id.clone();
            let ended = node.block(move |node| node.runtime.kill_container(&id)).await;
            if matches!(ended, Ok(()) | Err(runtime::Error::NotFound { .. })) {
                return;
            }
        }
    });
}

fn record_failure(node: &Node, id: &ContainerId, error: &runtime::Error) {
    let ended = Ended {
        started_at: 0,
        finished_at: now(),
        code: START_ERROR,
        reason: "StartError".to_owned(),
        message: host::chain(error),
    };
    let (_, written) = node.store.learn_container(id, |record| record.phase = ContainerPhase::Exited(ended));
    if let Err(error) = written {
        warn!(container = id.short(), "its start failed, and that is not on disk: {}", host::chain(&error));
    }
    if let Some(record) = node.store.container(id) {
        events::publish_container(node, &record, ContainerEventType::ContainerStoppedEvent);
    }
}
