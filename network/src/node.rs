//! Shared by the backends: records, pod networks, host ports and listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use host::{Place, PodId};
use ipnetwork::IpNetwork;

use crate::hostport::Reach;
use crate::links::Link;
use crate::ports::Ports;
use crate::repair::{Missing, Watched};
use crate::state::State;
use crate::{Attachment, Counters, Error, Firewall, NetworkSpec, Settings, hostport, ipam, names};

/// The name of the pod's interface.
pub(crate) const INTERFACE: &str = "eth0";

/// The node's state.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    reach: Reach,
    /// The pod networks of the last [`crate::Network::configure`].
    networks: Mutex<Vec<IpNetwork>>,
    ports: Mutex<Ports>,
    /// Listeners started by this server, which reaps them. Init reaps those of an earlier server.
    listeners: Mutex<BTreeMap<PodId, Child>>,
    /// Read while a pod is attached or detached, written while a part of one is restored.
    changing: RwLock<()>,
}

impl Node {
    /// Opens the records and reserves the host ports of the recorded pods.
    pub(crate) fn open(settings: Settings, reach: Reach) -> Result<Self, Error> {
        let state = State::open(&settings.state)?;
        let mut ports = Ports::default();
        for spec in state.specs()? {
            if let Err(error) = ports.take(&spec.id, &spec.host_ports) {
                tracing::warn!(pod = %spec.id, error = host::chain(&error), "another pod has one of the host ports");
            }
        }
        Ok(Self {
            settings,
            state,
            reach,
            networks: Mutex::default(),
            ports: Mutex::new(ports),
            listeners: Mutex::default(),
            changing: RwLock::default(),
        })
    }

    /// Returns the pod networks, none before [`Node::set_networks`].
    pub(crate) fn networks(&self) -> Vec<IpNetwork> {
        lock(&self.networks).clone()
    }

    pub(crate) fn set_networks(&self, networks: &[IpNetwork]) {
        *lock(&self.networks) = networks.to_vec();
    }

    /// Returns the name of the host's end of a pod's interface.
    pub(crate) fn host_end(&self, id: &PodId) -> String {
        names::host_end(&self.settings.prefix, id)
    }

    pub(crate) fn attachment(&self, spec: &NetworkSpec) -> Attachment {
        let addresses = spec.addresses.iter().map(IpNetwork::ip).collect();
        Attachment { host_interface: Some(self.host_end(&spec.id)), addresses }
    }

    /// Checks the spec, reserves its host ports and writes it, before any kernel object is created. Returns the former
    /// spec.
    pub(crate) fn reserve(&self, spec: &NetworkSpec, place: &Place) -> Result<Option<NetworkSpec>, Error> {
        if *place != Place::Host {
            check(spec)?;
        }
        let before = self.state.load(&spec.id)?;
        if let Some(lent) = &spec.lent {
            self.check_unlent(&spec.id, &lent.name)?;
        }
        let ports_before: &[_] = before.as_ref().map_or(&[], |before| &before.host_ports);
        lock(&self.ports).take(&spec.id, &spec.host_ports)?;
        if ports_before != spec.host_ports {
            // The pod's own listener must not count as another process on the port.
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

    /// Refuses an interface that another pod has.
    fn check_unlent(&self, id: &PodId, name: &str) -> Result<(), Error> {
        let has = |pod: &NetworkSpec| pod.id != *id && pod.lent.as_ref().is_some_and(|lent| lent.name == name);
        match self.state.specs()?.into_iter().find(has) {
            Some(owner) => Err(Error::Conflict { what: format!("pod {} has the interface {name}", owner.id) }),
            None => Ok(()),
        }
    }

    /// Returns the recorded ones of these pods, to be looked after. An unreadable record is logged and left alone.
    pub(crate) fn watched(&self, pods: &[PodId]) -> Vec<Watched> {
        let read = |id: &PodId| match self.state.load_routed(id) {
            Ok(found) => found.map(|(spec, routed)| Watched { spec, interface: self.host_end(id), routed }),
            Err(error) => {
                tracing::warn!(pod = %id, error = host::chain(&error), "a pod's network is unreadable");
                None
            }
        };
        pods.iter().filter_map(read).collect()
    }

    /// Returns which of these pods lack what `is_ruled` denies, or their listener.
    pub(crate) fn missing_of(
        &self,
        pods: &[Watched],
        is_ruled: impl Fn(&NetworkSpec) -> bool,
    ) -> Result<Vec<Missing>, Error> {
        let mut missing = Vec::new();
        for pod in pods {
            if !is_ruled(&pod.spec) {
                missing.push(Missing::PodRules(pod.spec.id.clone()));
            }
            let needed = !hostport::relays(&pod.spec, self.reach).is_empty();
            if needed && !hostport::running(&self.state.directory_of(&pod.spec.id))? {
                missing.push(Missing::Listener(pod.spec.id.clone()));
            }
        }
        Ok(missing)
    }

    /// Keeps [`Node::restore`] away while a pod is attached or detached.
    pub(crate) fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores a part of one of these pods, the one with this id, unless it was detached since they were read: nobody would remove
    /// what is made for it now.
    pub(crate) fn restore(
        &self,
        pods: &[Watched],
        id: &PodId,
        part: impl Fn(&Watched) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(pod) = pods.iter().find(|pod| pod.spec.id == *id) else { return Ok(()) };
        let _alone = self.changing.write().unwrap_or_else(PoisonError::into_inner);
        if self.state.load(id)?.is_none() { Ok(()) } else { part(pod) }
    }

    /// Returns the attached pods and spares whose interface is in this list.
    pub(crate) fn whole_pods(&self, links: &[Link]) -> Result<BTreeSet<PodId>, Error> {
        let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
        Ok(self.state.pods()?.into_iter().filter(|id| names.contains(self.host_end(id).as_str())).collect())
    }

    /// Returns the counters of the attached pods and spares whose interface is in this list.
    pub(crate) fn counters_in(&self, links: Vec<Link>) -> Result<BTreeMap<PodId, Counters>, Error> {
        let mut links: BTreeMap<String, Link> = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        let pods = self.state.pods()?.into_iter();
        let found = pods.filter_map(|id| links.remove(&self.host_end(&id)).map(|link| (id, link)));
        Ok(found.map(|(id, link)| (id, link.stats.seen_from_the_other_end(INTERFACE))).collect())
    }

    /// Starts the pod's listener if it needs one. Idempotent.
    pub(crate) fn listen(&self, spec: &NetworkSpec) -> Result<(), Error> {
        let directory = self.state.directory_of(&spec.id);
        if let Some(listener) = hostport::start(&self.settings.workers, &directory, spec, self.reach)? {
            lock(&self.listeners).insert(spec.id.clone(), listener);
        }
        Ok(())
    }

    /// Stops the pod's listener. Idempotent.
    pub(crate) fn stop_listening(&self, id: &PodId) -> Result<(), Error> {
        let listener = lock(&self.listeners).remove(id);
        hostport::stop(&self.state.directory_of(id), listener)
    }

    /// Removes the record and releases the host ports, once the kernel objects are gone. Idempotent.
    pub(crate) fn forget(&self, id: &PodId) -> Result<(), Error> {
        self.state.remove(id)?;
        lock(&self.ports).release(id);
        Ok(())
    }
}

/// The error for an interface that is to be lent and is neither on the node nor in the pod.
pub(crate) fn nothing_to_lend(name: &str) -> Error {
    Error::NotFound { what: format!("interface {name} of the node") }
}

/// Returns the pod's counters by the host's end of its interface; [`Error::NotFound`] without one.
pub(crate) fn counters(id: &PodId, link: Option<Link>) -> Result<Counters, Error> {
    let link = link.ok_or_else(|| Error::NotFound { what: format!("interface of pod {id}") })?;
    Ok(link.stats.seen_from_the_other_end(INTERFACE))
}

/// Refuses to remove the bridge while a pod is attached.
pub(crate) fn check_unused(inventory: &[PodId]) -> Result<(), Error> {
    let conflict = |id| Error::Conflict { what: format!("the bridge is in use: pod {id} is attached") };
    inventory.first().map_or(Ok(()), |id| Err(conflict(id)))
}

/// Checks a spec: at least one address, at most one per family, one for each host port's family, and another interface than its
/// own.
pub(crate) fn check(spec: &NetworkSpec) -> Result<(), Error> {
    let invalid = |field: &str, reason: String| Err(Error::Invalid { field: field.to_owned(), reason });
    if spec.addresses.is_empty() {
        return invalid("addresses", "a pod that is not on the host's network needs one".to_owned());
    }
    let of_family = |ipv4: bool| spec.addresses.iter().filter(|address| address.is_ipv4() == ipv4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        return invalid("addresses", "a pod has at most one of each family".to_owned());
    }
    if spec.lent.as_ref().is_some_and(|lent| lent.name == INTERFACE) {
        return invalid("interface", format!("{INTERFACE} is the name of the pod's own"));
    }
    for port in &spec.host_ports {
        if !spec.addresses.iter().any(|address| port.has_family(address.is_ipv4())) {
            let text = crate::ports::describe(port);
            return invalid("host port", format!("the pod has no address of the family of {text}"));
        }
    }
    Ok(())
}

/// Ignores poisoning: each change of these maps is one call, so a panic leaves no partial change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a spec closes a pod that was open, or less closed: what it answered before must not pass its firewall any more. A new
/// pod may have the address of an earlier one.
pub(crate) fn closes(spec: &NetworkSpec, before: Option<&NetworkSpec>) -> bool {
    spec.firewall != Firewall::Open && before.is_none_or(|before| before.firewall != spec.firewall)
}

/// Returns the network that the pod reaches by the gateway of this address: everything, or without a route its own network.
pub(crate) fn reach(address: &IpNetwork, route: bool) -> IpNetwork {
    let (ip, prefix) = if route { (unspecified(address), 0) } else { (address.network(), address.prefix()) };
    ipam::with_prefix(ip, prefix)
}

fn unspecified(address: &IpNetwork) -> IpAddr {
    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Returns an address as the only one of its network: a pod has no neighbours on its link.
pub(crate) fn alone(address: &IpNetwork) -> IpNetwork {
    ipam::with_prefix(address.ip(), if address.is_ipv4() { 32 } else { 128 })
}

/// Runs every step and joins the errors. A failed step does not stop the others.
pub(crate) fn run_all(what: &str, steps: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let mut failures = host::Failures::default();
    for step in steps {
        failures.keep(step);
    }
    failures.result(Error::failed(what))
}
