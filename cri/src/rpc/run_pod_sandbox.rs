//! RunPodSandbox: the flow that everything else hangs on. Translate the request, reserve the name, write the record with its
//! addresses, and only then ask the kernel; [`create()`] removes what there is after an error.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use network::NetworkSpec;
use network::ipam::Named;
use proto::v1::{ContainerEventType, PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse};
use runtime::spec::{Filter, Scope};
use tonic::Request;
use tracing::warn;

use super::extensions::delivery;
use crate::error::Error;
use crate::lifecycle::create::{Creation, Object, create};
use crate::lifecycle::{events, spares};
use crate::state::clock::now;
use crate::state::names::{self, Fingerprint};
use crate::state::node::Node;
use crate::state::record::{PodPhase, PodRecord, Wire};
use crate::translate;

/// The most bytes of a file of rules.
const FILTER_BYTES_MAX: u64 = 1 << 20;

pub(crate) async fn call(
    node: &Arc<Node>,
    request: Request<RunPodSandboxRequest>,
) -> Result<RunPodSandboxResponse, Error> {
    let delivery = delivery(&request);
    let request = request.into_inner();
    let fingerprint = Fingerprint::of(&request);
    let config = request.config.ok_or_else(|| Error::missing("config"))?;
    let metadata = config.metadata.clone().ok_or_else(|| Error::missing("config.metadata"))?;
    let id = node.store.new_pod_id();
    let mut pod = translate::pod(&id, &config, &request.runtime_handler, &node.config)?;
    if let Some(path) = pod.network.filter.clone() {
        pod.spec.filter = Some(node.block(move |_| read_filter(&path)).await?);
    }
    // Before it costs an address, a record and a spare.
    node.runtime.check_pod(&pod.spec)?;
    let of_datasets = translate::storage::of_datasets(&config.annotations);
    if let Some(key) = of_datasets.filter(|_| !node.images.has_datasets()) {
        return Err(Error::Unsupported {
            what: format!("annotations[{key}], for roots on ZFS, with roots on {}", node.rootfs),
        });
    }
    let address_name = names::namespaced(&metadata);
    let wanted = Wanted { pod, config, runtime_handler: request.runtime_handler, address_name };
    let creation = Creation { object: Object::Pod(id), name: names::of_pod(&metadata), fingerprint, delivery };
    let made = create(node, creation, move |node| make(node, wanted)).await;
    node.spares.wake();
    Ok(RunPodSandboxResponse { pod_sandbox_id: made? })
}

/// Reads the rules for a pod's own pf.
fn read_filter(path: &Path) -> Result<Filter, Error> {
    let refused = |reason: String| Error::Invalid {
        field: format!("annotations[{}]", translate::network::FILTER_ANNOTATION),
        reason: format!("cannot read {}: {reason}", path.display()),
    };
    let size = path.metadata().map_err(|error| refused(error.to_string()))?.len();
    if size > FILTER_BYTES_MAX {
        return Err(refused(format!("it has {size} bytes, more than {FILTER_BYTES_MAX}")));
    }
    let rules = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Filter { name, rules })
}

struct Wanted {
    pod: translate::Pod,
    config: PodSandboxConfig,
    runtime_handler: String,
    /// The name that its addresses are remembered by.
    address_name: String,
}

fn make(node: &Node, wanted: Wanted) -> Result<(), Error> {
    if !wanted.pod.network.host {
        node.configure_network()?;
    }
    let name = wanted.address_name.clone();
    let (record, forgotten) = record(node, wanted)?;
    let id = record.id.clone();
    let (spec, wanted) = (record.spec.clone(), record.network.clone());
    let mut spare = record.spare.clone();
    if let Err(error) = node.store.put_pod(record, forgotten.as_deref()) {
        node.release(&name, &wanted.addresses);
        spare.iter().for_each(|spare| spares::discard(node, spare));
        return Err(error.into());
    }
    let place = match node.runtime.create_pod(&spec, spare.as_ref()) {
        Err(error) if spare.is_some() => {
            warn!(pod = id.short(), "a spare could not be used: {}", host::chain(&error));
            // The record still names the spare, so the pod's tear-down removes what this leaves.
            spares::discard(node, &spare.take().expect("there is one"));
            node.runtime.create_pod(&spec, None)?
        }
        made => made?,
    };
    let attachment = node.network.attach(&wanted, &place, spare.as_ref())?;
    node.runtime.load_filter(&id)?;
    let ready = node.store.change_pod(&id, |record| {
        record.phase = PodPhase::Ready;
        record.attachment = Some(attachment);
        record.spare = None;
    })?;
    let removed = || Error::State { what: format!("pod {} was removed while it was made", id.short()) };
    let record = ready.ok_or_else(removed)?;
    events::publish_pod(node, &record, ContainerEventType::ContainerCreatedEvent);
    events::publish_pod(node, &record, ContainerEventType::ContainerStartedEvent);
    Ok(())
}

/// Allocates the addresses and the spare of a new pod. They belong to its record from here on. Returns the name whose former
/// addresses are not remembered any more, too.
fn record(node: &Node, wanted: Wanted) -> Result<(PodRecord, Option<String>), Error> {
    let translate::Pod { mut spec, network } = wanted.pod;
    let none = || Ok(Named { addresses: Vec::new(), forgotten: None });
    let Named { addresses, forgotten } =
        if network.host { none() } else { node.allocate(&wanted.address_name, &network.addresses) }?;
    let domain = &node.config.network.names;
    if !domain.is_empty() && !addresses.is_empty() && spec.resolv_conf.is_none() {
        let namespace = wanted.config.metadata.as_ref().map_or("", |metadata| metadata.namespace.as_str());
        let gateways: Vec<IpAddr> = addresses.iter().map(|address| network::ipam::gateway(address).ip()).collect();
        spec.resolv_conf = Some(translate::resolv_conf_of_gateways(domain, namespace, &gateways));
    }
    let spare = if spec.network == Scope::Pod && spec.filter.is_none() { node.spares.take() } else { None };
    let record = PodRecord {
        id: spec.id.clone(),
        phase: PodPhase::Creating,
        created_at: now(),
        config: Wire(wanted.config),
        runtime_handler: wanted.runtime_handler,
        network: NetworkSpec {
            id: spec.id.clone(),
            addresses,
            route: network.route,
            keeps_source: network.keeps_source,
            lent: network.lent,
            host_ports: network.host_ports,
            firewall: network.firewall,
        },
        spec,
        attachment: None,
        spare,
        reason: String::new(),
    };
    Ok((record, forgotten))
}
