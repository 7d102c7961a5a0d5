//! Pods that the kernel loses while the server runs, because somebody removed a jail, unmounted a namespace or killed an init:
//! each second the runtime is asked which pods are whole, and a ready one that is not is not ready any more, with a reason and an
//! event. Its client makes another and stops this one, and that removes what is left of it; what of its containers ended is
//! told as it ended.

use std::sync::Arc;
use std::time::Duration;

use host::PodId;
use proto::v1::ContainerEventType;
use tracing::warn;

use crate::error::Error;
use crate::lifecycle::events;
use crate::lifecycle::exits;
use crate::state::node::Node;
use crate::state::record::PodPhase;

/// How often it is looked: as often as kubelet lists pods.
const INTERVAL: Duration = Duration::from_secs(1);
/// Why a pod is not ready.
const LOST: &str = "the kernel has lost it: somebody removed its jail or a namespace, or killed its init";

/// Looks until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let looked = node.block(|node| reconcile(node)).await;
        // Once, not each second as long as it goes on.
        if let Err(error) = &looked
            && !failing
        {
            warn!("cannot look for pods that the kernel has lost: {}", host::chain(error));
        }
        failing = looked.is_err();
    }
}

/// Looks once. Blocking.
fn reconcile(node: &Node) -> Result<(), Error> {
    // The records first: what is ready now was whole before, and a pod that is stopped meanwhile is not ready before the kernel
    // loses it.
    let ready: Vec<_> = node.store.pods().into_iter().filter(|pod| pod.phase == PodPhase::Ready).collect();
    if ready.is_empty() {
        return Ok(());
    }
    let whole = node.runtime.whole_pods()?;
    ready.iter().filter(|pod| !whole.contains(&pod.id)).for_each(|pod| mark_lost(node, &pod.id));
    Ok(())
}

/// A pod is not ready any more, whatever the disk says: a server started again finds the same.
fn mark_lost(node: &Node, id: &PodId) {
    // Its containers first: the pod's event shows them.
    for container in node.store.containers_of(id) {
        if let Err(error) = exits::record(node, &container.id) {
            warn!(container = container.id.short(), "cannot ask for the exit: {}", host::chain(&error));
        }
    }
    let (changed, written) = node.store.learn_pod(id, |pod| {
        if pod.phase == PodPhase::Ready {
            (pod.phase, pod.reason, pod.attachment) = (PodPhase::Stopping, LOST.to_owned(), None);
        }
    });
    if let Err(error) = written {
        warn!(pod = id.short(), "it is not ready, and that is not on disk: {}", host::chain(&error));
    }
    if changed && let Some(record) = node.store.pod(id) {
        warn!(pod = id.short(), "it is not ready: {LOST}");
        events::publish_pod(node, &record, ContainerEventType::ContainerStoppedEvent);
    }
}
