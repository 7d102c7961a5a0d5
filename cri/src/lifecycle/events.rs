//! What happens to pods and containers, told to every client of GetContainerEvents. A client that does not keep up is cut
//! off rather than given a stream with holes: kubelet lists everything again when its stream ends.

use std::sync::Arc;

use proto::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::Error;
use crate::state::node::{Node, now};
use crate::state::record::{ContainerRecord, PodRecord};
use crate::translate::answer;

/// How many events a client may be behind: the start of 250 pods with two containers each.
const BACKLOG: usize = 2048;

/// Streams at once: kubelet has one, and crictl one while it is watched.
const LISTENERS: usize = 64;

/// The listeners.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<ContainerEventResponse>>,
    /// Ends every stream: a server that stops waits for its calls.
    closed: CancellationToken,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG), closed: CancellationToken::new() }
    }
}

impl Events {
    /// Everything from now on.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when too many listen already.
    pub fn listen(&self) -> Result<broadcast::Receiver<Arc<ContainerEventResponse>>, Error> {
        if self.sender.receiver_count() >= LISTENERS {
            return Err(Error::Exhausted { what: format!("{LISTENERS} clients listen to events already") });
        }
        Ok(self.sender.subscribe())
    }

    /// Ends every client's stream, now and from now on.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Ready once [`Events::close`] was called.
    pub fn closed(&self) -> WaitForCancellationFutureOwned {
        self.closed.clone().cancelled_owned()
    }
}

impl Node {
    /// Tells what happened to a pod itself, which stands in the event as a container with the pod's id.
    pub fn tell_pod(&self, pod: &PodRecord, event: ContainerEventType) {
        self.tell(pod, pod.id.as_str(), event);
    }

    /// Tells what happened to a container.
    pub fn tell_container(&self, container: &ContainerRecord, event: ContainerEventType) {
        if let Some(pod) = self.store.pod(&container.pod) {
            self.tell(&pod, container.id.as_str(), event);
        }
    }

    fn tell(&self, pod: &PodRecord, id: &str, event: ContainerEventType) {
        if self.events.sender.receiver_count() == 0 {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: event.into(),
            created_at: now(),
            pod_sandbox_status: Some(answer::pod::status(pod)),
            containers_statuses: answer::pod::containers(self, &pod.id),
        };
        // Nobody listens any more: nothing to tell.
        let _ = self.events.sender.send(Arc::new(event));
    }
}

#[cfg(test)]
mod tests {
    use super::{Events, LISTENERS};

    #[test]
    fn there_are_not_too_many_listeners_and_one_that_goes_makes_room() {
        let events = Events::default();
        let mut listening: Vec<_> = (0..LISTENERS).map(|_| events.listen().unwrap()).collect();
        let error = events.listen().unwrap_err().to_string();
        assert!(error.contains(&LISTENERS.to_string()), "{error}");
        listening.pop();
        assert!(events.listen().is_ok());
    }
}
