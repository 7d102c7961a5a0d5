//! RunPodSandbox: the flow that everything else hangs on. The request is translated, the name reserved, the record written
//! with its addresses, and only then is the kernel asked; any error tears down what there is.

use std::sync::Arc;

use host::PodId;
use network::PodNetwork;
use proto::v1::{ContainerEventType, PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse};
use runtime::spec::Scope;
use tonic::Request;
use tracing::warn;

use super::extensions::delivery;
use crate::error::Error;
use crate::lifecycle::events;
use crate::lifecycle::spares;
use crate::lifecycle::teardown::{self, Until};
use crate::state::clock::now;
use crate::state::names::{self, Claim, Claimed, Fingerprint, Ticket};
use crate::state::node::Node;
use crate::state::record::{PodPhase, PodRecord, Wire};
use crate::translate;

/// Makes the pod, or answers with the one that this request has made already.
pub(crate) async fn call(
    node: &Arc<Node>,
    request: Request<RunPodSandboxRequest>,
) -> Result<RunPodSandboxResponse, Error> {
    let delivery = delivery(&request);
    let request = request.into_inner();
    let fingerprint = Fingerprint::of(&request);
    let config = request.config.ok_or_else(|| Error::missing("config"))?;
    let id = node.store.new_pod_id();
    let pod = translate::pod(&id, &config, &request.runtime_handler, &node.config.runtime_handlers)?;
    let metadata = config.metadata.clone().ok_or_else(|| Error::missing("config.metadata"))?;
    let name = names::of_pod(&metadata);
    let claim = Claim { what: "sandbox", name: &name, id: id.as_str(), fingerprint, delivery: &delivery };
    let ticket = match reserve(node, &claim).await? {
        Claimed::Made(made) => return Ok(RunPodSandboxResponse { pod_sandbox_id: made }),
        Claimed::Free(ticket) => ticket,
    };
    let _lock = node.locks.pod(&id).await;
    let wanted = Wanted { pod, config, runtime_handler: request.runtime_handler };
    let made = node.block(move |node| make(node, wanted, ticket)).await;
    node.spares.wake();
    made?;
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}

struct Wanted {
    pod: translate::Pod,
    config: PodSandboxConfig,
    runtime_handler: String,
}

/// Reserves the name. When it belongs to a pod whose roll-back has not succeeded, that is tried once more first.
async fn reserve(node: &Arc<Node>, claim: &Claim<'_>) -> Result<Claimed, Error> {
    let reserved = match node.names.claim(claim).await {
        Err(Error::Reserved { owner, .. }) => owner,
        other => return other,
    };
    let failed = node.store.find_pod(&reserved).ok().filter(|pod| pod.reason == ROLLED_BACK);
    if let Some(failed) = failed {
        let _lock = node.locks.pod(&failed.id).await;
        node.block(move |node| teardown::pod(node, &failed.id, Until::Removed)).await?;
    }
    node.names.claim(claim).await
}

/// What marks a pod that could not be made and could not be removed either.
const ROLLED_BACK: &str = "it could not be made, and what there is of it could not be removed yet";

fn make(node: &Node, wanted: Wanted, ticket: Ticket) -> Result<(), Error> {
    let id = wanted.pod.spec.id.clone();
    match try_make(node, wanted) {
        Ok(record) => {
            ticket.made();
            events::publish_pod(node, &record, ContainerEventType::ContainerCreatedEvent);
            events::publish_pod(node, &record, ContainerEventType::ContainerStartedEvent);
            Ok(())
        }
        Err(error) => {
            roll_back(node, &id, ticket);
            Err(error)
        }
    }
}

/// The first error is the one to report. A pod that cannot be removed now stays, not ready, for its client to remove.
fn roll_back(node: &Node, id: &PodId, ticket: Ticket) {
    let Err(error) = teardown::pod(node, id, Until::Removed) else { return drop(ticket) };
    warn!(pod = id.short(), "cannot roll back: {}", host::chain(&error));
    ticket.stuck();
    let marked = node.store.change_pod(id, |record| {
        record.phase = record.phase.max(PodPhase::Stopping);
        record.reason = ROLLED_BACK.to_owned();
    });
    if let Err(error) = marked {
        warn!(pod = id.short(), "cannot mark it: {}", host::chain(&error));
    }
}

fn try_make(node: &Node, wanted: Wanted) -> Result<Arc<PodRecord>, Error> {
    if !wanted.pod.network.host {
        node.configure_network()?;
    }
    let record = record(node, wanted)?;
    let id = record.id.clone();
    let (spec, wanted) = (record.spec.clone(), record.network.clone());
    let addresses = record.network.addresses.clone();
    let mut spare = record.spare.clone();
    if let Err(error) = node.store.put_pod(record) {
        node.release(&addresses);
        spare.iter().for_each(|spare| spares::give_back(node, spare));
        return Err(error.into());
    }
    let place = match node.runtime.create_pod(&spec, spare.as_ref()) {
        Err(error) if spare.is_some() => {
            warn!(pod = id.short(), "a spare could not be used: {}", host::chain(&error));
            // The record still names the spare: the tear-down of the pod removes what this leaves.
            spares::give_back(node, &spare.take().expect("there is one"));
            node.runtime.create_pod(&spec, None)?
        }
        made => made?,
    };
    let attachment = node.network.attach(&wanted, &place, spare.as_ref())?;
    let made = node.store.change_pod(&id, |record| {
        record.phase = PodPhase::Ready;
        record.attachment = Some(attachment);
        record.spare = None;
    })?;
    made.ok_or_else(|| Error::State { what: format!("pod {} was removed while it was made", id.short()) })
}

/// The record of a pod that is to be made, with its addresses and its spare, which are its own from here on.
fn record(node: &Node, wanted: Wanted) -> Result<PodRecord, Error> {
    let translate::Pod { spec, network } = wanted.pod;
    let addresses = if network.host { Vec::new() } else { node.allocate(&network.addresses)? };
    let spare = if spec.network == Scope::Pod { node.spares.take() } else { None };
    Ok(PodRecord {
        id: spec.id.clone(),
        phase: PodPhase::Creating,
        created_at: now(),
        config: Wire(wanted.config),
        runtime_handler: wanted.runtime_handler,
        network: PodNetwork { id: spec.id.clone(), addresses, route: network.route, host_ports: network.host_ports },
        spec,
        attachment: None,
        spare,
        reason: String::new(),
    })
}
