//! The clients of GetContainerEvents. A client that does not keep up is cut off rather than given a stream with holes: kubelet
//! lists everything again when its stream ends.

use std::sync::Arc;

use proto::v1::ContainerEventResponse;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::Error;

/// Events that a client may lag behind: the start of 250 pods with two containers each.
const BACKLOG: usize = 2048;

/// Streams at once: kubelet has one, and crictl one while it is watched.
const SUBSCRIBERS: usize = 64;

#[derive(Debug)]
pub(crate) struct Subscribers {
    sender: broadcast::Sender<Arc<ContainerEventResponse>>,
    /// Ends every stream, because a server that stops waits for its calls.
    closed: CancellationToken,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG), closed: CancellationToken::new() }
    }
}

impl Subscribers {
    /// Every event from now on, or [`Error::Exhausted`].
    pub(crate) fn subscribe(&self) -> Result<broadcast::Receiver<Arc<ContainerEventResponse>>, Error> {
        if self.sender.receiver_count() >= SUBSCRIBERS {
            return Err(Error::Exhausted { what: format!("{SUBSCRIBERS} clients listen to events already") });
        }
        Ok(self.sender.subscribe())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sender.receiver_count() == 0
    }

    /// Sends an event to every subscriber.
    pub(crate) fn send(&self, event: ContainerEventResponse) {
        // An error says that nobody subscribes any more.
        let _ = self.sender.send(Arc::new(event));
    }

    /// Ends all streams, and every later one.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Waits for [`Subscribers::close`].
    pub(crate) fn closed(&self) -> WaitForCancellationFutureOwned {
        self.closed.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{SUBSCRIBERS, Subscribers};

    #[test]
    fn there_are_not_too_many_listeners_and_one_that_goes_makes_room() {
        let subscribers = Subscribers::default();
        let mut listening: Vec<_> = (0..SUBSCRIBERS).map(|_| subscribers.subscribe().unwrap()).collect();
        let error = subscribers.subscribe().unwrap_err().to_string();
        assert!(error.contains(&SUBSCRIBERS.to_string()), "{error}");
        listening.pop();
        assert!(subscribers.subscribe().is_ok());
    }
}
