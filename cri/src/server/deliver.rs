//! The layer around every call. Its handler runs as a task, so that a client that goes away does not cut it off half way; its
//! duration and outcome are logged; and it learns whether its answer reaches the client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Instrument, debug, info_span, warn};

use crate::rpc::extensions::{Deadline, Gone};
use crate::state::names::Delivery;
use crate::status;

/// The header of a gRPC client's deadline.
const TIMEOUT_HEADER: &str = "grpc-timeout";
/// How long before the client's deadline a call gives up, so that the client receives the reason in time.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);
/// A call that takes longer is logged at level info.
const SLOW: Duration = Duration::from_secs(2);

/// Whether the server answers calls yet. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DeliverLayer {
    /// Closed until recovery is done.
    pub(crate) gate: Gate,
    /// The running handlers.
    pub(crate) calls: TaskTracker,
}

impl<S> Layer<S> for DeliverLayer {
    type Service = Deliver<S>;

    fn layer(&self, inner: S) -> Deliver<S> {
        Deliver { inner, layer: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Deliver<S> {
    inner: S,
    layer: DeliverLayer,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Deliver<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible> + Send + Clone + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        if !self.layer.gate.is_open() {
            return Box::pin(async move { Ok(status::recovering().into_http()) });
        }
        let delivery = Delivery::default();
        request.extensions_mut().insert(delivery.clone());
        let gone = Gone::default();
        request.extensions_mut().insert(gone.clone());
        let deadline = read_deadline(&request);
        request.extensions_mut().insert(deadline);
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        // The clone that is ready is the one to call; the fresh clone waits for its own turn (tower's contract).
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        let span = info_span!("rpc", %method);
        let handler = async move { log_outcome(&method, ready.call(request)).await };
        let task = self.layer.calls.spawn(handler.instrument(span));
        let unless_answered = gone.0.drop_guard();
        Box::pin(async move {
            let response = match task.await {
                Ok(response) => response?,
                Err(error) => status::defect(&error).into_http(),
            };
            unless_answered.disarm();
            // A client that has stopped waiting stays connected until its cancellation arrives.
            if !deadline.is_past() {
                delivery.set_done();
            }
            Ok(response)
        })
    }
}

async fn log_outcome<F, E>(method: &str, call: F) -> Result<Response<Body>, E>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    let started = Instant::now();
    let response = call.await?;
    let elapsed = started.elapsed();
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match Status::from_header_map(response.headers()).filter(|status| status.code() != tonic::Code::Ok) {
        Some(status) if status::is_routine(method, status.code()) => {
            debug!(milliseconds, code = ?status.code(), "{method}: {}", status.message());
        }
        Some(status) => warn!(milliseconds, code = ?status.code(), "{method}: {}", status.message()),
        None if elapsed > SLOW && !status::is_long(method) => tracing::info!(milliseconds, "{method} took long"),
        None => debug!(milliseconds, "{method}"),
    }
    Ok(response)
}

fn read_deadline(request: &Request<Body>) -> Deadline {
    let timeout = request.headers().get(TIMEOUT_HEADER).and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    Deadline(timeout.and_then(|timeout| Instant::now().checked_add(timeout.saturating_sub(DEADLINE_MARGIN))))
}

/// At most eight digits and a unit (gRPC over HTTP/2).
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(value.saturating_mul(60))),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use http::{Request, Response};
    use tokio_util::task::TaskTracker;
    use tonic::body::Body;
    use tower::{Layer, Service};

    use super::{DeliverLayer, Gate, TIMEOUT_HEADER, parse_timeout};
    use crate::state::names::Delivery;

    /// Whether the answer to a call with this deadline counts as delivered.
    fn is_delivered(timeout: Option<&str>) -> bool {
        let delivery: Arc<Mutex<Option<Delivery>>> = Arc::default();
        let seen = Arc::clone(&delivery);
        let handler = tower::service_fn(move |request: Request<Body>| {
            *seen.lock().unwrap() = request.extensions().get::<Delivery>().cloned();
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        });
        let gate = Gate::default();
        gate.open();
        let mut request = Request::new(Body::empty());
        if let Some(timeout) = timeout {
            request.headers_mut().insert(TIMEOUT_HEADER, timeout.parse().unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let calls = TaskTracker::new();
        runtime.block_on(async { DeliverLayer { gate, calls }.layer(handler).call(request).await.unwrap() });
        let delivery = delivery.lock().unwrap().take().unwrap();
        delivery.is_done()
    }

    #[test]
    fn an_answer_after_its_deadline_is_not_delivered() {
        assert!(is_delivered(None));
        assert!(is_delivered(Some("1H")));
        assert!(!is_delivered(Some("1n")), "its client has stopped waiting");
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let cases = [
            ("100m", Some(Duration::from_millis(100))),
            ("2S", Some(Duration::from_secs(2))),
            ("1H", Some(Duration::from_secs(3600))),
            ("5u", Some(Duration::from_micros(5))),
            ("5", None),
            ("", None),
            ("xS", None),
            ("ü", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_timeout(text), wanted, "{text}");
        }
    }
}
