//! Reads what containers have written to their roots every few seconds, so that calls for statistics need not walk them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use host::ContainerId;

use crate::state::clock::now;
use crate::state::node::Node;

/// The usual time between two passes: kubelet asks for statistics as often.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);

/// Reads until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(node.written_period).await;
        // Each is work of its own: a server that stops waits for one reading, not for the pass.
        for id in node.samples.due(Instant::now()) {
            node.tend(move |node| renew(node, &id)).await;
        }
    }
}

fn renew(node: &Node, id: &ContainerId) {
    node.samples.renew(id, now(), || node.images.container_usage(id));
}
