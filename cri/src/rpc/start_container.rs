//! StartContainer: a container is started once.

use std::sync::Arc;

use host::ContainerId;
use proto::v1::{ContainerEventType, StartContainerRequest, StartContainerResponse};

use crate::error::{Backend, Error};
use crate::exits;
use crate::node::{Node, nanoseconds, now};
use crate::record::{ContainerPhase, Ended, PodPhase};

/// The exit code of a container whose program could not be run, as containerd has it.
const START_ERROR: i32 = 128;

/// Starts it.
pub async fn call(node: &Arc<Node>, request: StartContainerRequest) -> Result<StartContainerResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    let _lock = node.locks.container(&container.pod, &container.id).await;
    let id = container.id.clone();
    node.block(move |node| start(node, &id)).await?;
    exits::watch(node, container.id.clone());
    Ok(StartContainerResponse {})
}

fn start(node: &Node, id: &ContainerId) -> Result<(), Error> {
    check(node, id)?;
    let started = match node.runtime.start_container(id) {
        // The server before this one may have started it and died before it could write that down.
        Err(runtime::Error::Conflict { .. }) => already(node, id)?,
        Err(error @ runtime::Error::Command { .. }) => {
            failed(node, id, &error)?;
            return Err(Error::Backend(Backend::Runtime(error)));
        }
        other => other?,
    };
    let phase = ContainerPhase::Running { pid: started.pid, started_at: nanoseconds(started.at) };
    // The kernel has it whatever the disk says: recovery asks the kernel.
    let (_, written) = node.store.learn_container(id, |record| record.phase = phase);
    if let Err(error) = written {
        tracing::warn!(container = id.short(), "it runs, and that is not on disk: {}", host::chain(&error));
    }
    if let Some(record) = node.store.container(id) {
        node.tell_container(&record, ContainerEventType::ContainerStartedEvent);
    }
    Ok(())
}

fn check(node: &Node, id: &ContainerId) -> Result<(), Error> {
    let record = node.store.container(id).ok_or_else(|| Error::NotFound { what: format!("container {id}") })?;
    if record.phase != ContainerPhase::Created {
        let state = crate::answer::container::state(&record).as_str_name();
        return Err(Error::State {
            what: format!("container {} is in {state} state: it cannot be started", id.short()),
        });
    }
    let pod = node.store.pod(&record.pod).filter(|pod| pod.phase == PodPhase::Ready);
    pod.map(drop).ok_or_else(|| Error::State { what: format!("sandbox {} is not ready", record.pod.short()) })
}

fn already(node: &Node, id: &ContainerId) -> Result<runtime::Started, Error> {
    match node.runtime.container_state(id)? {
        runtime::ContainerState::Running(started) | runtime::ContainerState::Exited { started, .. } => Ok(started),
        runtime::ContainerState::Created => {
            Err(Error::State { what: format!("container {} cannot be started, and was never started", id.short()) })
        }
    }
}

fn failed(node: &Node, id: &ContainerId, error: &runtime::Error) -> Result<(), Error> {
    let ended = Ended {
        started_at: 0,
        finished_at: now(),
        code: START_ERROR,
        reason: "StartError".to_owned(),
        message: host::chain(error),
    };
    let record = node.store.change_container(id, |record| record.phase = ContainerPhase::Exited(ended))?;
    if let Some(record) = record {
        node.tell_container(&record, ContainerEventType::ContainerStoppedEvent);
    }
    Ok(())
}
