//! The flow of RunPodSandbox and CreateContainer: reserve the name, create the object under its lock, and roll back on an error.
//! Requests arrive translated, so that a field is refused before anything is touched.

use std::sync::Arc;

use host::{ContainerId, PodId};
use tracing::warn;

use super::teardown::{self, Until};
use crate::error::Error;
use crate::state::names::{Claim, Claimed, Delivery, Fingerprint, Ticket};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, PodPhase};

/// Why a pod is in [`PodPhase::Failed`], for a person.
const FAILED: &str = "it could not be created, and what there is of it could not be removed yet";

#[derive(Debug, Clone)]
pub(crate) enum Object {
    Pod(PodId),
    Container { id: ContainerId, pod: PodId },
}

#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) object: Object,
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) delivery: Delivery,
}

/// Creates the object by `make`, which may block, and returns its id. A retry of an equal request gets the first one's id.
pub(crate) async fn create(
    node: &Arc<Node>,
    creation: Creation,
    make: impl FnOnce(&Node) -> Result<(), Error> + Send + 'static,
) -> Result<String, Error> {
    let Creation { object, name, fingerprint, delivery } = creation;
    let id = object.id().to_owned();
    let claim = Claim { what: object.kind(), name: &name, id: &id, fingerprint, delivery: &delivery };
    let ticket = match reserve(node, &object, &claim).await? {
        Claimed::Made(id) => return Ok(id),
        Claimed::Free(ticket) => ticket,
    };
    let _lock = object.lock(node).await;
    let made = node.block(move |node| match make(node) {
        Ok(()) => {
            ticket.complete();
            Ok(())
        }
        Err(error) => {
            roll_back(node, &object, ticket);
            Err(error)
        }
    });
    made.await.map(|()| id)
}

/// Reserves the name. If the roll-back of its owner failed, tries that again first.
async fn reserve(node: &Arc<Node>, object: &Object, claim: &Claim<'_>) -> Result<Claimed, Error> {
    let owner = match node.names.claim(claim).await {
        Err(Error::Reserved { owner, .. }) => owner,
        other => return other,
    };
    if let Some(failed) = object.find_failed(node, &owner) {
        let _lock = failed.lock(node).await;
        node.block(move |node| failed.remove(node)).await?;
    }
    node.names.claim(claim).await
}

/// Removes the object. If that fails, the object keeps its record and its name, and its client or a retry removes it later. The
/// client is told the first error, not this one.
fn roll_back(node: &Node, object: &Object, ticket: Ticket) {
    let Err(error) = object.remove(node) else { return drop(ticket) };
    warn!("cannot roll back {} {}: {}", object.kind(), object.id(), host::chain(&error));
    ticket.keep();
    if let Err(error) = object.mark_failed(node) {
        warn!("cannot mark {} {} as failed: {}", object.kind(), object.id(), host::chain(&error));
    }
}

impl Object {
    fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "sandbox",
            Self::Container { .. } => "container",
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Pod(id) => id.as_str(),
            Self::Container { id, .. } => id.as_str(),
        }
    }

    async fn lock(&self, node: &Node) -> impl Send + use<> {
        match self {
            Self::Pod(id) => (Some(node.locks.lock_pod(id).await), None),
            Self::Container { id, pod } => (None, Some(node.locks.lock_container(pod, id).await)),
        }
    }

    fn remove(&self, node: &Node) -> Result<(), Error> {
        match self {
            Self::Pod(id) => teardown::pod(node, id, Until::Removed),
            Self::Container { id, .. } => teardown::container(node, id),
        }
    }

    /// The object of the same kind that has this id, if its roll-back failed.
    fn find_failed(&self, node: &Node, owner: &str) -> Option<Self> {
        match self {
            Self::Pod(_) => {
                let pod = node.store.find_pod(owner).ok().filter(|pod| pod.phase == PodPhase::Failed)?;
                Some(Self::Pod(pod.id.clone()))
            }
            Self::Container { .. } => {
                let one = node.store.find_container(owner).ok().filter(|one| one.made.is_none())?;
                Some(Self::Container { id: one.id.clone(), pod: one.pod.clone() })
            }
        }
    }

    /// Makes it visible to clients, even if the disk fails.
    fn mark_failed(&self, node: &Node) -> Result<(), Error> {
        let (_, marked) = match self {
            Self::Pod(id) => node.store.learn_pod(id, |pod| {
                pod.phase = pod.phase.max(PodPhase::Failed);
                pod.reason = FAILED.to_owned();
            }),
            Self::Container { id, .. } => node.store.learn_container(id, |record| {
                if record.phase == ContainerPhase::Creating {
                    record.phase = ContainerPhase::Removing(None);
                }
            }),
        };
        Ok(marked?)
    }
}
