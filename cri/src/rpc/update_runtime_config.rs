//! UpdateRuntimeConfig: kubelet sends the node's pod CIDR.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use proto::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use tracing::{info, warn};

use crate::error::Error;
use crate::state::node::Node;

/// Makes it the pod network. An empty CIDR changes nothing, as in other servers. Pod networks in the configuration win, since
/// somebody chose them.
pub(crate) async fn call(
    node: &Arc<Node>,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse, Error> {
    let config = request.runtime_config.unwrap_or_default().network_config.unwrap_or_default();
    let networks = parse(&config.pod_cidr)?;
    let configured = &node.config.network.pod_cidrs;
    if networks.is_empty() || networks == node.pod_networks() {
        return Ok(UpdateRuntimeConfigResponse {});
    }
    if !configured.is_empty() {
        warn!("the pod CIDR {} is not used: network.pod_cidrs is set in the configuration", config.pod_cidr);
        return Ok(UpdateRuntimeConfigResponse {});
    }
    node.block(move |node| node.set_pod_networks(&networks)).await?;
    info!("pods get their addresses from {}", config.pod_cidr);
    Ok(UpdateRuntimeConfigResponse {})
}

/// One network, or one of each family, separated by a comma.
fn parse(text: &str) -> Result<Vec<IpNetwork>, Error> {
    let invalid = |word: &str| Error::Invalid {
        field: "runtime_config.network_config.pod_cidr".to_owned(),
        reason: format!("{word:?} is not a network"),
    };
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| invalid(word))).collect()
}
