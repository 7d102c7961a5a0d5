//! The exits of containers. A task per running container waits on the runtime's exit descriptor; that task or a tear-down, whichever
//! is first, records the exit.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::ContainerId;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use proto::v1::ContainerEventType;
use runtime::{ContainerState, Exit, Started};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use crate::error::Error;
use crate::lifecycle::events;
use crate::state::clock::{nanoseconds, now};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, Ended};

/// The exit code of a container whose exit was lost, as in containerd.
pub(crate) const UNKNOWN_EXIT: i32 = 255;
/// The pause before asking the runtime again after an error.
const RETRY: Duration = Duration::from_millis(500);

/// Spawns a task that waits for the exit of a running container and records it.
pub(crate) fn watch(node: &Arc<Node>, id: ContainerId) {
    let node = node.clone();
    tokio::spawn(async move {
        loop {
            if let Err(error) = wait(&node, &id).await {
                debug!(container = id.short(), "cannot wait for the exit: {}", host::chain(&error));
            }
            let noted = node.block({
                let id = id.clone();
                move |node| record(node, &id)
            });
            match noted.await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!(container = id.short(), "cannot ask for the exit: {}", host::chain(&error)),
            }
            tokio::time::sleep(RETRY).await;
        }
    });
}

/// Makes a descriptor non-blocking, to be make_awaitable. Fails for a regular file.
#[expect(deprecated, reason = "its successor is unsafe for types whose descriptor may change; a File's does not")]
pub(crate) fn make_awaitable(descriptor: OwnedFd) -> io::Result<AsyncFd<File>> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    AsyncFd::with_interest(File::from(descriptor), Interest::READABLE)
}

async fn wait(node: &Arc<Node>, id: &ContainerId) -> Result<(), Error> {
    let id = id.clone();
    let descriptor: OwnedFd = node.block(move |node| node.runtime.exit_descriptor(&id)).await?;
    let host = |source| crate::error::Backend::Host { operation: "cannot poll an exit descriptor".to_owned(), source };
    let descriptor = make_awaitable(descriptor).map_err(host)?;
    let _ready = descriptor.readable().await.map_err(host)?;
    Ok(())
}

/// Asks the runtime for the state of a container and records its exit, if it has one, once, with its event. True: it does not
/// run, or has no record. Blocking.
pub(crate) fn record(node: &Node, id: &ContainerId) -> Result<bool, Error> {
    let Some(record) = node.store.container(id) else { return Ok(true) };
    if !matches!(record.phase, ContainerPhase::Running { .. }) {
        return Ok(true);
    }
    let ended = match node.runtime.container_state(id) {
        Ok(ContainerState::Exited { started, exit }) => describe(started, exit),
        Ok(ContainerState::Running(_)) => return Ok(false),
        Ok(ContainerState::Created) | Err(runtime::Error::NotFound { .. }) => {
            describe_lost(&record.phase, "the container is gone, and nobody saw how it ended")
        }
        Err(error) => return Err(error.into()),
    };
    record_end(node, id, ended);
    Ok(true)
}

/// Records the exit of a container that runs by its record. Blocking.
pub(crate) fn record_end(node: &Node, id: &ContainerId, ended: Ended) {
    let (changed, written) = node.store.learn_container(id, |record| {
        if matches!(record.phase, ContainerPhase::Running { .. }) {
            record.phase = ContainerPhase::Exited(ended);
        }
    });
    if let Err(error) = written {
        // The monitor's record of the exit is durable, and a restart reads it again.
        warn!(container = id.short(), "the exit is known but not on disk: {}", host::chain(&error));
    }
    if changed && let Some(record) = node.store.container(id) {
        events::publish_container(node, &record, ContainerEventType::ContainerStoppedEvent);
    }
    node.exits.send_modify(|count| *count += 1);
}

/// Waits until a container does not run by its record; false: it still does at the deadline.
pub(crate) async fn wait_for_end(node: &Node, id: &ContainerId, deadline: Option<Instant>) -> bool {
    let mut exits = node.exits.subscribe();
    let ended = async {
        loop {
            let runs = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Running { .. });
            if !node.store.container(id).is_some_and(|record| runs(&record.phase)) {
                return true;
            }
            // The sender lives as long as the node.
            if exits.changed().await.is_err() {
                return false;
            }
        }
    };
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), ended).await.unwrap_or(false),
        None => ended.await,
    }
}

/// The runtime's exit in CRI's words.
pub(crate) fn describe(started: Started, exit: Exit) -> Ended {
    let reason = match exit.code {
        _ if exit.out_of_memory => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    Ended {
        started_at: nanoseconds(started.at),
        finished_at: nanoseconds(exit.at),
        code: exit.code,
        reason: reason.to_owned(),
        message: exit.message,
    }
}

/// An exit that was lost, in containerd's words.
pub(crate) fn describe_lost(phase: &ContainerPhase, message: &str) -> Ended {
    let started_at = if let ContainerPhase::Running { started_at, .. } = phase { *started_at } else { 0 };
    Ended {
        started_at,
        finished_at: now(),
        code: UNKNOWN_EXIT,
        reason: "Unknown".to_owned(),
        message: message.to_owned(),
    }
}
