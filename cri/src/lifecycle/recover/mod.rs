//! Recovery at start-up: compares the records with the kernel's inventory and reconciles them. The plan is a pure function of both;
//! applying it uses the same tear-down as everything else. Objects whose records cannot be read are left alone.

mod actions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use runtime::ContainerState;
use tracing::{error, info, warn};

use crate::error::Error;
use crate::lifecycle::exits;
use crate::lifecycle::teardown::{self, Until};
use crate::state::clock::nanoseconds;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, Loaded};

pub(crate) use actions::{Action, Inventory, Records, plan};

const LOST: &str = "its kernel objects are gone: the node was rebooted, or somebody removed them";

/// Reconciles kernel and records. A step that fails is logged and left to the next start or to a client's Stop or Remove; the
/// server serves all the same. Blocking.
pub(crate) fn run(node: &Arc<Node>, loaded: &Loaded) -> Result<(), Error> {
    for unreadable in node.unreadable() {
        error!(
            "the record {} in {} cannot be read and is left alone with all that belongs to it: {}",
            unreadable.key, unreadable.table, unreadable.reason
        );
    }
    if let Err(error) = node.configure_network() {
        error!("the pods' network cannot be configured: {}", host::chain(&error));
    }
    let records = read_records(loaded);
    let inventory = read_inventory(node, &records)?;
    let actions = plan(&records, &inventory);
    for action in &actions {
        if let Err(error) = apply(node, action) {
            warn!("recovery cannot do {action:?}: {}", host::chain(&error));
        }
    }
    let (pods, containers) = (node.store.pods().len(), node.store.containers().len());
    info!(pods, containers, actions = actions.len(), "recovered");
    Ok(())
}

fn read_inventory(node: &Node, records: &Records) -> Result<Inventory, Error> {
    let inventory = node.runtime.inventory()?;
    for unknown in inventory.unknown.iter().filter(|unknown| !records.own(unknown)) {
        warn!("{unknown} carries this server's prefix and belongs to nothing that it knows; it is left alone");
    }
    Ok(Inventory {
        whole: node.runtime.whole_pods(&inventory.pods)?,
        pods: inventory.pods.into_iter().collect(),
        spares: inventory.spares.into_iter().collect(),
        containers: inventory.containers,
        networks: node.network.inventory()?.into_iter().collect(),
        roots: node.images.containers()?.into_iter().collect(),
    })
}

fn read_records(loaded: &Loaded) -> Records {
    let pods: BTreeMap<_, _> = loaded.pods.values().map(|pod| (pod.id.clone(), pod.phase)).collect();
    let containers =
        loaded.containers.values().map(|one| (one.id.clone(), (one.pod.clone(), one.phase.clone()))).collect();
    let unreadable: BTreeSet<_> = loaded.unreadable.iter().map(|record| record.key.clone()).collect();
    Records { pods, containers, spares: loaded.spares.iter().cloned().collect(), unreadable }
}

fn apply(node: &Arc<Node>, action: &Action) -> Result<(), Error> {
    match action {
        Action::RemovePod(id) => teardown::pod(node, id, Until::Removed),
        Action::StopPod(id) => teardown::pod(node, id, Until::Stopped),
        Action::LosePod(id) => {
            node.store.change_pod(id, |pod| pod.reason = LOST.to_owned())?;
            teardown::pod(node, id, Until::Stopped)
        }
        Action::AttachPod(id) => reattach(node, id),
        Action::RemoveSpare(id) => teardown::spare(node, id),
        Action::RemoveContainer(id) => teardown::container(node, id),
        Action::WatchContainer(id) => {
            exits::watch(node, id.clone());
            Ok(())
        }
        Action::AdoptContainer(id) => adopt(node, id),
        Action::LoseContainer(id) => {
            node.store.change_container(id, |record| {
                if !matches!(record.phase, ContainerPhase::Exited(_)) {
                    record.phase = ContainerPhase::Exited(exits::describe_lost(&record.phase, LOST));
                }
            })?;
            Ok(())
        }
        Action::KillContainer(id) => Ok(node.runtime.kill_container(id)?),
    }
}

/// Attaches a pod that lost its interface to the network again, with the same addresses.
fn reattach(node: &Node, id: &host::PodId) -> Result<(), Error> {
    let Some(pod) = node.store.pod(id) else { return Ok(()) };
    let place = node.runtime.place(id)?;
    let attachment = node.network.attach(&pod.network, &place, None)?;
    node.store.change_pod(id, |pod| pod.attachment = Some(attachment))?;
    Ok(())
}

/// Updates the record from the kernel: the server died between a start or an exit and its record.
fn adopt(node: &Arc<Node>, id: &host::ContainerId) -> Result<(), Error> {
    let phase = match node.runtime.container_state(id)? {
        ContainerState::Created => return Ok(()),
        ContainerState::Running(started) => {
            ContainerPhase::Running { pid: started.pid, started_at: nanoseconds(started.at) }
        }
        ContainerState::Exited { started, exit } => ContainerPhase::Exited(exits::describe(started, exit)),
    };
    let record = node.store.change_container(id, |record| record.phase = phase)?;
    if record.is_some_and(|record| matches!(record.phase, ContainerPhase::Running { .. })) {
        exits::watch(node, id.clone());
    }
    Ok(())
}
