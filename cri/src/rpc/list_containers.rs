//! ListContainers: from memory.

use std::sync::Arc;

use proto::v1::{Container, ContainerFilter, ListContainersRequest, ListContainersResponse};

use super::limit;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer;

pub(crate) fn call(node: &Arc<Node>, request: ListContainersRequest) -> Result<ListContainersResponse, Error> {
    limit(ListContainersResponse { containers: items(node, request.filter) }, "StreamContainers")
}

/// The containers that pass a filter, which may name ids by a prefix.
pub(crate) fn items(node: &Arc<Node>, filter: Option<ContainerFilter>) -> Vec<Container> {
    let mut filter = filter.unwrap_or_default();
    if let Ok(container) = node.store.find_container(&filter.id) {
        filter.id = container.id.to_string();
    }
    if let Ok(pod) = node.store.find_pod(&filter.pod_sandbox_id) {
        filter.pod_sandbox_id = pod.id.to_string();
    }
    let containers = node.store.containers();
    let passing = containers.iter().filter(|one| answer::container::passes(one, &filter));
    passing.map(|one| answer::container::item(one)).collect()
}
