//! What the layer around every call tells its RPC about the client, as extensions of the request: whether the answer was
//! delivered, when the client stops waiting, and when it has gone away.

use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::state::names::Delivery;

/// Cancelled once the client has gone away without its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gone(pub(crate) CancellationToken);

/// When the client stops waiting; None: never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline(pub(crate) Option<Instant>);

impl Deadline {
    /// Whether the client has stopped waiting.
    #[must_use]
    pub(crate) fn is_past(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }
}

/// Whether the answer to this request reaches its client.
pub(crate) fn delivery<T>(request: &Request<T>) -> Delivery {
    request.extensions().get::<Delivery>().cloned().unwrap_or_default()
}

/// Tells when this request's client has gone away.
pub(crate) fn gone<T>(request: &Request<T>) -> CancellationToken {
    request.extensions().get::<Gone>().cloned().unwrap_or_default().0
}

/// When this request's client stops waiting.
pub(crate) fn deadline<T>(request: &Request<T>) -> Deadline {
    request.extensions().get::<Deadline>().copied().unwrap_or_default()
}
