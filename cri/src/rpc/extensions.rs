//! What `server::deliver` tells an RPC about its client, as extensions of the request: whether the answer was delivered, when the
//! client stops waiting, and when it has gone away.

use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::state::names::Delivery;

/// Cancelled when the client goes away without its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gone(pub(crate) CancellationToken);

/// When the client stops waiting; None: it does not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline(pub(crate) Option<Instant>);

impl Deadline {
    pub(crate) fn is_past(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }
}

pub(crate) fn delivery<T>(request: &Request<T>) -> Delivery {
    request.extensions().get::<Delivery>().cloned().unwrap_or_default()
}

pub(crate) fn gone<T>(request: &Request<T>) -> CancellationToken {
    request.extensions().get::<Gone>().cloned().unwrap_or_default().0
}

pub(crate) fn deadline<T>(request: &Request<T>) -> Deadline {
    request.extensions().get::<Deadline>().copied().unwrap_or_default()
}
