//! What the backends have in common: the pods that are remembered, the host ports that are taken, and the listeners.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::{Place, PodId};

use crate::hostport::Reach;
use crate::ports::Ports;
use crate::state::State;
use crate::{Error, NetworkSpec, Settings, hostport};

/// A node with its pods.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    reach: Reach,
    ports: Mutex<Ports>,
    /// Listeners that this server started, to be reaped when they are gone. Those of an earlier server are init's.
    listeners: Mutex<BTreeMap<PodId, Child>>,
}

impl Node {
    /// Opens the state directory and takes the ports of the pods that are there.
    pub(crate) fn open(settings: Settings, reach: Reach) -> Result<Self, Error> {
        let state = State::open(&settings.state)?;
        let mut ports = Ports::default();
        for spec in state.specs()? {
            if let Err(error) = ports.take(&spec.id, &spec.host_ports) {
                tracing::warn!(pod = %spec.id, error = host::chain(&error), "a pod's host ports are another's too");
            }
        }
        Ok(Self { settings, state, reach, ports: Mutex::new(ports), listeners: Mutex::default() })
    }

    /// Checks what is wanted, takes its host ports and remembers it, before anything is made. Returns what was wanted
    /// before.
    pub(crate) fn reserve(&self, spec: &NetworkSpec, place: &Place) -> Result<Option<NetworkSpec>, Error> {
        if *place != Place::Host {
            check(spec)?;
        }
        let before = self.state.load(&spec.id)?;
        let ports_before: &[_] = before.as_ref().map_or(&[], |before| &before.host_ports);
        lock(&self.ports).take(&spec.id, &spec.host_ports)?;
        if ports_before != spec.host_ports {
            // Its own listener is not a process of the node that has the port.
            let freed = self.stop_listening(&spec.id).and_then(|()| hostport::check_free(&spec.host_ports));
            if let Err(error) = freed {
                lock(&self.ports).release(&spec.id);
                return Err(error);
            }
        }
        if *place != Place::Host || !spec.host_ports.is_empty() {
            self.state.save(spec)?;
        }
        Ok(before)
    }

    /// Makes the pod's host ports answer to the node itself.
    pub(crate) fn listen(&self, spec: &NetworkSpec) -> Result<(), Error> {
        let directory = self.state.of(&spec.id);
        if let Some(listener) = hostport::start(&self.settings.workers, &directory, spec, self.reach)? {
            lock(&self.listeners).insert(spec.id.clone(), listener);
        }
        Ok(())
    }

    /// Ends the pod's listener.
    pub(crate) fn stop_listening(&self, id: &PodId) -> Result<(), Error> {
        let listener = lock(&self.listeners).remove(id);
        hostport::stop(&self.state.of(id), listener)
    }

    /// Forgets the pod and gives its ports back, once nothing of it is left.
    pub(crate) fn forget(&self, id: &PodId) -> Result<(), Error> {
        self.state.remove(id)?;
        lock(&self.ports).release(id);
        Ok(())
    }
}

/// Preconditions of every backend: a pod on a network of its own has an address, at most one of a family, and one for each
/// host port.
pub(crate) fn check(spec: &NetworkSpec) -> Result<(), Error> {
    let invalid = |field: &str, reason: String| Err(Error::Invalid { field: field.to_owned(), reason });
    if spec.addresses.is_empty() {
        return invalid("addresses", "a pod on a network of its own needs one".to_owned());
    }
    let of_family = |ipv4: bool| spec.addresses.iter().filter(|address| address.is_ipv4() == ipv4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        return invalid("addresses", "a pod has at most one of each family".to_owned());
    }
    for port in &spec.host_ports {
        if !spec.addresses.iter().any(|address| port.has_family(address.is_ipv4())) {
            let text = crate::ports::describe(port);
            return invalid("host port", format!("{text} is of a family of which the pod has no address"));
        }
    }
    Ok(())
}

/// A lock whose holder panicked guards nothing that is half done: each change of these maps is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs every step of a removal and joins what went wrong, so that one failure does not leave the rest standing.
pub(crate) fn all_of(what: &str, steps: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let mut failures: Vec<Error> = steps.into_iter().filter_map(Result::err).collect();
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.swap_remove(0)),
        _ => {
            let texts: Vec<String> = failures.iter().map(|error| host::chain(error)).collect();
            Err(Error::failed(what.to_owned())(texts.join("; ")))
        }
    }
}
