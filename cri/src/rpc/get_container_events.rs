//! GetContainerEvents: everything that happens from now on.

use std::sync::Arc;

use futures::StreamExt;
use proto::v1::ContainerEventResponse;
use tokio::sync::broadcast::error::RecvError;

use super::Parts;
use crate::error::Error;
use crate::state::node::Node;
use crate::status;

/// Subscribes, unless too many clients have. A client that lags behind gets an error and lists everything again.
pub(crate) fn call(node: &Arc<Node>) -> Result<Parts<ContainerEventResponse>, Error> {
    let events = node.subscribers.subscribe()?;
    let closed = node.subscribers.closed();
    let events = futures::stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        match events.recv().await {
            Ok(event) => Some((Ok((*event).clone()), Some(events))),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(lost)) => Some((Err(status::lagged(lost)), None)),
        }
    });
    Ok(Box::pin(events.take_until(closed)))
}
