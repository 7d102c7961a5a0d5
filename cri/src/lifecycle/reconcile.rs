//! Finds the pods that the kernel loses while the server runs, because somebody removed a jail, unmounted a namespace, killed an
//! init or destroyed an interface. Each second it asks the runtime and the network which pods are whole. A ready pod that is not
//! becomes not ready, with a reason and an event; its client creates another and stops this one, which removes the rest.

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

/// As often as kubelet lists pods.
const INTERVAL: Duration = Duration::from_secs(1);
/// Why a pod is not ready.
const CUT: &str = "the kernel has lost its network interface: somebody removed it";
const LOST: &str = "the kernel has lost it: somebody removed its jail or a namespace, or killed its init";

/// Reconciles each [`INTERVAL`] until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let looked = node.tend(|node| reconcile(node)).await;
        // One warning, not one a second.
        if let Err(error) = &looked
            && !failing
        {
            warn!("cannot look for pods that the kernel has lost: {}", host::chain(error));
        }
        failing = looked.is_err();
    }
}

/// Marks the ready pods that the kernel has lost. Blocking.
fn reconcile(node: &Node) -> Result<(), Error> {
    // Records before the kernel: a pod that is stopped meanwhile loses its readiness before its kernel objects.
    let ready: Vec<_> = node.store.pods().into_iter().filter(|pod| pod.phase == PodPhase::Ready).collect();
    if ready.is_empty() {
        return Ok(());
    }
    let ids: Vec<PodId> = ready.iter().map(|pod| pod.id.clone()).collect();
    let whole = node.runtime.whole_pods(&ids)?;
    let joined = node.network.whole_pods()?;
    for pod in &ready {
        let has_interface = pod.attachment.as_ref().is_some_and(|attachment| attachment.host_interface.is_some());
        if !whole.contains(&pod.id) {
            mark_lost(node, &pod.id, LOST);
        } else if has_interface && !joined.contains(&pod.id) {
            mark_lost(node, &pod.id, CUT);
        }
    }
    Ok(())
}

/// Marks a pod as not ready, even if the disk fails: after a restart the server finds the same.
fn mark_lost(node: &Node, id: &PodId, why: &str) {
    // Containers first, since the pod's event shows them.
    for container in node.store.containers_of(id) {
        if let Err(error) = exits::record(node, &container.id) {
            warn!(container = container.id.short(), "cannot ask for the exit: {}", host::chain(&error));
        }
    }
    let (changed, written) = node.store.learn_pod(id, |pod| {
        if pod.phase == PodPhase::Ready {
            (pod.phase, pod.reason, pod.attachment) = (PodPhase::Stopping, why.to_owned(), None);
        }
    });
    if let Err(error) = written {
        warn!(pod = id.short(), "it is not ready, and that is not on disk: {}", host::chain(&error));
    }
    if changed && let Some(record) = node.store.pod(id) {
        warn!(pod = id.short(), "it is not ready: {why}");
        events::publish_pod(node, &record, ContainerEventType::ContainerStoppedEvent);
    }
}
