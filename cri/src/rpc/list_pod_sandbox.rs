//! ListPodSandbox: from memory.

use std::sync::Arc;

use proto::v1::{ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter};

use super::limit;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer;

pub(crate) fn call(node: &Arc<Node>, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Error> {
    limit(ListPodSandboxResponse { items: items(node, request.filter) }, "StreamPodSandboxes")
}

/// The pods that pass a filter, which may name an id by a prefix.
pub(crate) fn items(node: &Arc<Node>, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
    let mut filter = filter.unwrap_or_default();
    if let Ok(pod) = node.store.find_pod(&filter.id) {
        filter.id = pod.id.to_string();
    }
    let pods = node.store.pods();
    pods.iter().filter(|pod| answer::pod::passes(pod, &filter)).map(|pod| answer::pod::item(pod)).collect()
}
