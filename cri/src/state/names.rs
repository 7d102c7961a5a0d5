//! The names of pods and containers, made of their metadata, each reserved once. kubelet retries a create that took too long, and
//! must not get two pods: a retry with the same request gets the answer that its client did not receive. Any other create of the
//! same name is refused.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use proto::v1::{ContainerMetadata, PodSandboxMetadata};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::error::Error;

/// The name of a pod, in containerd's form.
pub(crate) fn of_pod(metadata: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt)
}

/// `namespace/name`, which a pod's successor shares: StatefulSets make pods of the same name and another uid.
pub(crate) fn namespaced(metadata: &PodSandboxMetadata) -> String {
    format!("{}/{}", metadata.namespace, metadata.name)
}

/// The name of a container, in containerd's form.
pub(crate) fn of_container(metadata: &ContainerMetadata, pod: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}_{}", metadata.name, pod.name, pod.namespace, pod.uid, metadata.attempt)
}

/// A container's own name, empty without metadata.
pub(crate) fn own(metadata: Option<&ContainerMetadata>) -> &str {
    metadata.map_or("", |metadata| &metadata.name)
}

/// Whether a client received the answer to its request. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivery(Arc<AtomicBool>);

impl Delivery {
    pub(crate) fn done() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set_done(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Distinguishes requests for the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Equal messages have equal bytes: proto's maps are ordered.
    pub(crate) fn of(message: &impl Message) -> Self {
        let bytes = message.encode_to_vec();
        Self(Sha256::digest(&bytes).into())
    }
}

/// A request for a name.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    /// `sandbox` or `container`, for errors.
    pub(crate) what: &'static str,
    pub(crate) name: &'a str,
    /// The id of the object that gets the name if it is free.
    pub(crate) id: &'a str,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) delivery: &'a Delivery,
}

/// The outcome of a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The name was free and is reserved: create the object.
    Free(Ticket),
    /// An equal request has created the object, and its client never received the answer: the object's id.
    Made(String),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    table: Arc<Mutex<HashMap<String, Reservation>>>,
}

#[derive(Debug)]
struct Reservation {
    owner: String,
    fingerprint: Option<Fingerprint>,
    delivery: Delivery,
    /// None once the object exists; closed if its creation failed.
    making: Option<watch::Receiver<()>>,
}

/// A reserved name whose object is being created. Dropping it frees the name.
#[derive(Debug)]
pub(crate) struct Ticket {
    names: Names,
    name: Option<String>,
    _making: watch::Sender<()>,
}

impl Names {
    /// Reserves a name, or waits for an equal request that is under way, or returns its answer; else [`Error::Reserved`].
    pub(crate) async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, Error> {
        loop {
            match self.attempt(claim)? {
                Attempt::Claimed(claimed) => return Ok(claimed),
                // Success or failure, the table has it.
                Attempt::Wait(mut making) => while making.changed().await.is_ok() {},
            }
        }
    }

    fn attempt(&self, claim: &Claim<'_>) -> Result<Attempt, Error> {
        let mut table = self.lock();
        let reservation = match table.entry(claim.name.to_owned()) {
            Entry::Vacant(vacant) => {
                let (sender, receiver) = watch::channel(());
                vacant.insert(Reservation {
                    owner: claim.id.to_owned(),
                    fingerprint: Some(claim.fingerprint),
                    delivery: claim.delivery.clone(),
                    making: Some(receiver),
                });
                let ticket = Ticket { names: self.clone(), name: Some(claim.name.to_owned()), _making: sender };
                return Ok(Attempt::Claimed(Claimed::Free(ticket)));
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        let same = reservation.fingerprint == Some(claim.fingerprint);
        match &reservation.making {
            Some(making) if same => Ok(Attempt::Wait(making.clone())),
            None if same && !reservation.delivery.is_done() => {
                reservation.delivery = claim.delivery.clone();
                Ok(Attempt::Claimed(Claimed::Made(reservation.owner.clone())))
            }
            _ => {
                Err(Error::Reserved { what: claim.what, name: claim.name.to_owned(), owner: reservation.owner.clone() })
            }
        }
    }

    /// Reserves a name for an object of the records, after a restart.
    pub(crate) fn take(&self, name: &str, owner: &str) {
        let reservation =
            Reservation { owner: owner.to_owned(), fingerprint: None, delivery: Delivery::done(), making: None };
        self.lock().insert(name.to_owned(), reservation);
    }

    /// Frees a name if it belongs to this owner. Idempotent.
    pub(crate) fn release(&self, name: &str, owner: &str) {
        let mut table = self.lock();
        if table.get(name).is_some_and(|reservation| reservation.owner == owner) {
            table.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Reservation>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Attempt {
    Claimed(Claimed),
    Wait(watch::Receiver<()>),
}

impl Ticket {
    /// Keeps the name for the object, which exists now, until [`Names::release`].
    pub(crate) fn complete(mut self) {
        self.finish(true);
    }

    /// Keeps the name for an object whose roll-back failed. No retry gets its id.
    pub(crate) fn keep(mut self) {
        self.finish(false);
    }

    fn finish(&mut self, answered: bool) {
        let Some(name) = self.name.take() else { return };
        if let Some(reservation) = self.names.lock().get_mut(&name) {
            reservation.making = None;
            if !answered {
                reservation.fingerprint = None;
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.names.lock().remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, Claimed, Delivery, Fingerprint, Names};
    use crate::error::Error;

    fn claim<'a>(id: &'a str, request: u8, delivery: &'a Delivery) -> Claim<'a> {
        Claim { what: "sandbox", name: "a", id, fingerprint: Fingerprint([request; 32]), delivery }
    }

    #[tokio::test]
    async fn a_retry_gets_the_answer_that_its_client_never_saw() {
        let (names, lost, seen) = (Names::default(), Delivery::default(), Delivery::default());
        let Claimed::Free(ticket) = names.claim(&claim("1", 1, &lost)).await.unwrap() else { panic!("free") };
        ticket.complete();
        let other = names.claim(&claim("2", 2, &seen)).await.unwrap_err();
        assert!(matches!(other, Error::Reserved { owner, .. } if owner == "1"));
        let retry = names.claim(&claim("3", 1, &seen)).await.unwrap();
        assert!(matches!(retry, Claimed::Made(id) if id == "1"));
        seen.set_done();
        assert!(names.claim(&claim("4", 1, &seen)).await.is_err());
        names.release("a", "1");
        assert!(matches!(names.claim(&claim("5", 1, &seen)).await.unwrap(), Claimed::Free(_)));
    }

    #[tokio::test]
    async fn a_retry_waits_for_the_create_that_is_under_way() {
        let (names, first, second) = (Names::default(), Delivery::default(), Delivery::default());
        let Claimed::Free(ticket) = names.claim(&claim("1", 1, &first)).await.unwrap() else { panic!("free") };
        let waiting = tokio::spawn({
            let (names, second) = (names.clone(), second.clone());
            async move { names.claim(&claim("2", 1, &second)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(ticket); // it failed
        assert!(matches!(waiting.await.unwrap().unwrap(), Claimed::Free(_)));
    }
}
