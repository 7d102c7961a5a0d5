//! ContainerStatus: from memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::v1::{ContainerStatusRequest, ContainerStatusResponse};

use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer;

pub(crate) fn call(node: &Arc<Node>, request: &ContainerStatusRequest) -> Result<ContainerStatusResponse, Error> {
    let container = node.store.find_container(&request.container_id)?;
    Ok(ContainerStatusResponse {
        status: Some(answer::container::status(node, &container)),
        info: if request.verbose { answer::info::container(node, &container) } else { BTreeMap::new() },
    })
}
