//! Status: whether pods and their network can be created, and if not, what to do about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use host::Need;
use proto::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use serde_json::json;

use crate::error::Error;
use crate::lifecycle::needs;
use crate::state::needs::Found;
use crate::state::node::Node;

/// The conditions that kubelet looks for.
const RUNTIME_READY: &str = "RuntimeReady";
const NETWORK_READY: &str = "NetworkReady";

pub(crate) async fn call(node: &Arc<Node>, request: StatusRequest) -> Result<StatusResponse, Error> {
    let found = match node.needs.latest() {
        Some(found) => found,
        None => node.block(|node| needs::look(node)).await,
    };
    let (runtime, network) = (&found.runtime, network_needs(node, &found));
    let conditions = vec![
        condition(RUNTIME_READY, "RuntimeNotReady", runtime),
        condition(NETWORK_READY, "NetworkPluginNotReady", &network),
    ];
    let info = if request.verbose { info(node, runtime, &network) } else { BTreeMap::new() };
    let features = node.runtime.features();
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info,
        runtime_handlers: handlers(node),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: features.supplemental_groups_policy,
            user_namespaces_host_network: false,
            mount_options: true,
            cgroup_mount_mode: false,
            seccomp_profile_oci: false,
        }),
    })
}

/// The needs of the network, and what the server itself knows about it.
fn network_needs(node: &Node, found: &Found) -> Vec<Need> {
    let mut needs = found.network.clone();
    if let Some(failure) = &node.network_repairs().failure {
        needs.push(Need {
            name: "repair of the network".to_owned(),
            found: failure.clone(),
            required: true,
            remedy: Some("remove what stands in the way; the server tries again every few seconds".to_owned()),
        });
    }
    if !node.config.network.names.is_empty() {
        let nameless = node.nameless();
        let remedy = "the server tries again; stop what else has port 53 of the gateways";
        needs.push(Need {
            name: "names of pods".to_owned(),
            remedy: nameless.as_ref().map(|_| remedy.to_owned()),
            found: nameless.unwrap_or_else(|| node.config.network.names.clone()),
            required: false,
        });
    }
    let networks = node.pod_networks();
    let found = networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let remedy = "set network.pod_cidrs in the configuration, or wait for kubelet to send the node's pod CIDR";
    needs.push(Need {
        name: "pod network".to_owned(),
        found: if networks.is_empty() { "none".to_owned() } else { found },
        required: true,
        remedy: networks.is_empty().then(|| remedy.to_owned()),
    });
    needs
}

fn condition(kind: &str, reason: &str, needs: &[Need]) -> RuntimeCondition {
    let missing: Vec<String> = needs
        .iter()
        .filter(|need| need.required)
        .filter_map(|need| need.remedy.as_ref().map(|remedy| format!("{}: {}: {remedy}", need.name, need.found)))
        .collect();
    RuntimeCondition {
        r#type: kind.to_owned(),
        status: missing.is_empty(),
        reason: if missing.is_empty() { String::new() } else { reason.to_owned() },
        message: missing.join("; "),
    }
}

fn handlers(node: &Node) -> Vec<RuntimeHandler> {
    let recursive_read_only_mounts = node.runtime.features().recursive_read_only_mounts;
    let features =
        RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces: false, cgroup_namespaces: false };
    let names = std::iter::once(String::new()).chain(node.config.runtime_handlers.iter().cloned());
    names.map(|name| RuntimeHandler { name, features: Some(features) }).collect()
}

fn info(node: &Node, runtime: &[Need], network: &[Need]) -> BTreeMap<String, String> {
    let need =
        |need: &Need| json!({"name": need.name, "found": need.found, "required": need.required, "remedy": need.remedy});
    let unreadable: Vec<_> = node
        .unreadable()
        .iter()
        .map(|record| json!({"table": record.table, "key": record.key, "reason": record.reason}))
        .collect();
    let repairs = node.network_repairs().clone();
    // crictl shows JSON objects as such, and everything else as text.
    let own = json!({
        "backend": node.runtime.name(),
        "rootfs": node.rootfs,
        "needs": runtime.iter().chain(network).map(need).collect::<Vec<_>>(),
        "podNetworks": node.pod_networks(),
        "networkRepairs": {"count": repairs.count, "last": repairs.last},
        "unreadableRecords": unreadable,
    });
    let entries = [("config", json!(node.config)), ("cellblock", own)];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}
