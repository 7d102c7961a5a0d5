//! StreamContainers: ListContainers in parts.

use std::sync::Arc;

use proto::v1::{StreamContainersRequest, StreamContainersResponse};

use super::{Parts, list_containers, split};
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: StreamContainersRequest) -> Parts<StreamContainersResponse> {
    split(list_containers::items(node, request.filter), |containers| StreamContainersResponse { containers })
}
