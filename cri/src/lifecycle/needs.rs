//! Looks at the needs of the backends every few seconds, and at once when the network changes, so that Status need not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::state::needs::Found;
use crate::state::node::Node;

/// As often as kubelet asks for Status.
const PERIOD: Duration = Duration::from_secs(5);

/// Looks until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        node.tend(|node| look(node)).await;
        let _ = tokio::time::timeout(PERIOD, node.needs.woken()).await;
    }
}

/// Looks now. Blocking.
pub(crate) fn look(node: &Node) -> Arc<Found> {
    let at = Instant::now();
    let mut runtime = node.runtime.needs();
    runtime.extend(node.images.needs());
    node.needs.put(Found { runtime, network: node.network.needs(), at })
}
