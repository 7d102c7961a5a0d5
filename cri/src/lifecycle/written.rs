//! Reads what containers have written to their roots every few seconds, so that calls for statistics need not walk them.

use std::sync::Arc;
use std::time::Duration;

use crate::state::clock::now;
use crate::state::node::Node;

/// As often as kubelet asks for statistics.
const PERIOD: Duration = Duration::from_secs(10);

/// Reads until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        node.tend(|node| renew(node)).await;
    }
}

fn renew(node: &Node) {
    for id in node.samples.due() {
        node.samples.renew(&id, now(), || node.images.container_usage(&id).ok());
    }
}
