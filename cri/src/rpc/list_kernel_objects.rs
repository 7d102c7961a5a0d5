//! Admin's ListKernelObjects: pods and containers as the system's own tools name them.

use std::net::IpAddr;
use std::sync::Arc;

use proto::admin::{KernelObject, ListKernelObjectsResponse};

use crate::error::Error;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, PodPhase};

pub(crate) async fn call(node: &Arc<Node>) -> Result<ListKernelObjectsResponse, Error> {
    node.block(|node| Ok(ListKernelObjectsResponse { objects: objects(node)? })).await
}

/// Reads all of them. What is not ready or does not run has none. Blocking.
fn objects(node: &Node) -> Result<Vec<KernelObject>, Error> {
    let mut objects = Vec::new();
    for pod in node.store.pods().into_iter().filter(|pod| pod.phase == PodPhase::Ready) {
        let found = node.runtime.kernel_object(&pod.id, None)?;
        let addresses = pod.attachment.iter().flat_map(|attachment| attachment.addresses.iter());
        objects.push(object(pod.id.as_str(), found, addresses.map(IpAddr::to_string).collect()));
    }
    for one in node.store.containers() {
        if matches!(one.phase, ContainerPhase::Running { .. }) {
            let found = node.runtime.kernel_object(&one.pod, Some(&one.id))?;
            objects.push(object(one.id.as_str(), found, Vec::new()));
        }
    }
    Ok(objects)
}

fn object(id: &str, found: Option<runtime::KernelObject>, addresses: Vec<String>) -> KernelObject {
    let (name, number) = found.map(|found| (found.name, found.number)).unwrap_or_default();
    KernelObject { id: id.to_owned(), name, number: number.unwrap_or_default(), addresses }
}
