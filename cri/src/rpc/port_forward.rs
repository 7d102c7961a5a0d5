//! PortForward: a URL for connections to ports of a pod.

use std::sync::Arc;

use proto::v1::{PortForwardRequest, PortForwardResponse};
use streaming::Forward;

use crate::error::Error;
use crate::state::node::Node;
use crate::state::record::PodPhase;

pub(crate) fn call(node: &Arc<Node>, request: PortForwardRequest) -> Result<PortForwardResponse, Error> {
    let pod = node.store.find_pod(&request.pod_sandbox_id)?;
    if pod.phase != PodPhase::Ready {
        return Err(Error::State { what: format!("sandbox {} is not ready", pod.id.short()) });
    }
    let port = |port: i32| match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Error::Invalid { field: "port".to_owned(), reason: format!("{port} is no port") }),
    };
    let ports = request.port.into_iter().map(port).collect::<Result<_, _>>()?;
    Ok(PortForwardResponse { url: node.streaming.forward_url(Forward { pod: pod.id.clone(), ports })? })
}
