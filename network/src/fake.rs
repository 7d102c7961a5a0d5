//! An in-memory network for tests. Its interfaces and host ports outlive the server (clone the [`FakeKernel`] and open
//! it again), and it fails where the shared [`Faults`] say so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::fault::Faults;
use host::{Need, Place, PodId, Prefix};
use ipnetwork::IpNetwork;

use crate::ports::Ports;
use crate::{Attachment, Counters, Error, Network, NetworkSpec, ipam, node};

/// The kernel's state. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    state: Arc<Mutex<State>>,
    faults: Faults,
}

#[derive(Debug, Default)]
struct State {
    networks: Vec<IpNetwork>,
    interfaces: BTreeMap<PodId, Interface>,
    /// Pods with an entry in the ruleset, those on the host's network included.
    rules: BTreeMap<PodId, NetworkSpec>,
    ports: Ports,
    /// Shared parts that are missing, and whether they can be restored.
    lost: Vec<String>,
    stuck: bool,
    subscribers: Vec<UnixStream>,
    /// How often the needs were looked at.
    looks: u64,
}

#[derive(Debug, Clone)]
struct Interface {
    place: Place,
    spec: Option<NetworkSpec>,
    counters: Counters,
}

impl FakeKernel {
    /// Creates an empty kernel whose calls count in `faults`.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self { state: Arc::default(), faults }
    }

    /// Simulates a reboot: removes everything.
    pub fn reboot(&self) {
        *self.lock() = State::default();
    }

    /// Whether the kernel holds an interface or rules of the pod.
    #[must_use]
    pub fn holds(&self, id: &PodId) -> bool {
        let state = self.lock();
        state.interfaces.contains_key(id) || state.rules.contains_key(id)
    }

    /// Removes a pod's interface, as an administrator may.
    pub fn cut(&self, id: &PodId) {
        self.lock().interfaces.remove(id);
    }

    /// Removes a shared part, as an administrator may, and tells the subscribers. With `for_good` no one can restore it.
    pub fn lose(&self, part: &str, for_good: bool) {
        let mut state = self.lock();
        state.lost.push(part.to_owned());
        state.stuck = for_good;
        // One whose server is gone is of no interest.
        state.subscribers.retain(|mut subscriber| subscriber.write_all(b"!").is_ok());
    }

    /// Lets the next reconciliation restore what was lost for good.
    pub fn unstick(&self) {
        self.lock().stuck = false;
    }

    /// How often the needs were looked at.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.lock().looks
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicked test has failed already; others may still look.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's view of a [`FakeKernel`].
#[derive(Debug)]
pub struct FakeNetwork {
    kernel: FakeKernel,
    prefix: Prefix,
}

impl FakeNetwork {
    /// Opens the kernel.
    #[must_use]
    pub fn new(kernel: FakeKernel, prefix: Prefix) -> Self {
        Self { kernel, prefix }
    }

    fn call<T>(&self, operation: &str, effect: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        let failed = |source| Error::Failed { operation: operation.to_owned(), source };
        self.kernel.faults.call(operation, || effect(&mut self.kernel.lock()), failed)
    }

    fn host_end(&self, id: &PodId) -> String {
        format!("{}{}v", self.prefix, id.short())
    }
}

impl Network for FakeNetwork {
    fn needs(&self) -> Vec<Need> {
        let need = |name: &str, found: String, remedy| Need { name: name.to_owned(), found, required: true, remedy };
        let mut state = self.kernel.lock();
        state.looks += 1;
        let lost = state.lost.join(", ");
        let remedy = (!lost.is_empty()).then(|| "wait".to_owned());
        vec![need("memory", "enough".to_owned(), None), need("the node's network", lost, remedy)]
    }

    fn configure(&self, pod_networks: &[IpNetwork]) -> Result<(), Error> {
        ipam::check(pod_networks)?;
        self.call("configure the pod networks", |state| {
            state.networks = pod_networks.to_vec();
            Ok(())
        })
    }

    fn attach(&self, spec: &NetworkSpec, place: &Place, spare: Option<&PodId>) -> Result<Attachment, Error> {
        let id = &spec.id;
        if *place == Place::Host {
            self.call(&format!("attach pod {id}"), |state| state.add_rules(spec))?;
            return Ok(Attachment { host_interface: None, addresses: Vec::new() });
        }
        node::check(spec)?;
        // Two steps, as in the real backends: a fault in the second leaves the interface.
        self.call(&format!("make the interface of pod {id}"), |state| state.add_interface(spec, place, spare))?;
        self.call(&format!("attach pod {id}"), |state| state.add_rules(spec))?;
        let addresses = spec.addresses.iter().map(IpNetwork::ip).collect();
        Ok(Attachment { host_interface: Some(self.host_end(id)), addresses })
    }

    fn prepare(&self, spare: &PodId, place: &Place) -> Result<(), Error> {
        self.call(&format!("prepare spare {spare}"), |state| {
            state.check_configured()?;
            state.interfaces.entry(spare.clone()).or_insert_with(|| Interface::new(place));
            Ok(())
        })
    }

    fn detach(&self, id: &PodId, _place: Option<&Place>) -> Result<(), Error> {
        self.call(&format!("remove the host ports of pod {id}"), |state| {
            state.rules.remove(id);
            state.ports.release(id);
            Ok(())
        })?;
        self.call(&format!("detach pod {id}"), |state| {
            state.interfaces.remove(id);
            Ok(())
        })
    }

    fn counters(&self, id: &PodId) -> Result<Counters, Error> {
        let state = self.kernel.lock();
        let interface = state.interfaces.get(id);
        interface
            .map(|interface| interface.counters.clone())
            .ok_or_else(|| Error::NotFound { what: format!("interface of pod {id}") })
    }

    fn all_counters(&self) -> Result<BTreeMap<PodId, Counters>, Error> {
        let state = self.kernel.lock();
        Ok(state.interfaces.iter().map(|(id, interface)| (id.clone(), interface.counters.clone())).collect())
    }

    fn inventory(&self) -> Result<Vec<PodId>, Error> {
        self.call("list the interfaces", |state| {
            let mut ids: Vec<PodId> = state.interfaces.keys().chain(state.rules.keys()).cloned().collect();
            ids.sort();
            ids.dedup();
            Ok(ids)
        })
    }

    // The two below run by the clock and not by a request: they take no turn in the plan of faults.
    fn whole_pods(&self) -> Result<BTreeSet<PodId>, Error> {
        Ok(self.kernel.lock().interfaces.keys().cloned().collect())
    }

    fn reconcile(&self, _pods: &[PodId]) -> Result<Vec<String>, Error> {
        let mut state = self.kernel.lock();
        if state.stuck {
            return Err(Error::failed(format!("cannot restore {}", state.lost.join(", ")))("it is lost for good"));
        }
        Ok(std::mem::take(&mut state.lost))
    }

    fn changes(&self) -> Result<OwnedFd, Error> {
        let failed = || "cannot subscribe";
        let (ours, theirs) = UnixStream::pair().map_err(Error::failed(failed()))?;
        theirs.set_nonblocking(true).map_err(Error::failed(failed()))?;
        self.kernel.lock().subscribers.push(ours);
        Ok(theirs.into())
    }

    fn unconfigure(&self) -> Result<(), Error> {
        self.call("remove the bridge", |state| {
            if !state.interfaces.is_empty() {
                return Err(Error::Conflict { what: "the bridge still has pods".to_owned() });
            }
            state.networks.clear();
            Ok(())
        })
    }
}

impl Interface {
    fn new(place: &Place) -> Self {
        let counters = Counters { interface: "eth0".to_owned(), ..Counters::default() };
        Self { place: place.clone(), spec: None, counters }
    }
}

impl State {
    fn check_configured(&self) -> Result<(), Error> {
        if self.networks.is_empty() {
            return Err(Error::failed("find the bridge")("it was not configured"));
        }
        Ok(())
    }

    fn add_interface(&mut self, spec: &NetworkSpec, place: &Place, spare: Option<&PodId>) -> Result<(), Error> {
        self.check_configured()?;
        let of_others = self.interfaces.iter().filter(|(id, _)| **id != spec.id);
        let taken = of_others.filter_map(|(_, interface)| interface.spec.as_ref()).flat_map(|other| &other.addresses);
        if let Some(address) = taken.clone().find(|address| spec.addresses.contains(address)) {
            return Err(Error::Conflict { what: format!("address {} is in use", address.ip()) });
        }
        let prepared = match (self.interfaces.get(&spec.id), spare) {
            (None, Some(spare)) => Some(
                self.interfaces
                    .remove(spare)
                    .ok_or_else(|| Error::NotFound { what: format!("interface of spare {spare}") })?,
            ),
            _ => None,
        };
        let interface = self.interfaces.entry(spec.id.clone()).or_insert_with(|| Interface::new(place));
        if let Some(prepared) = prepared {
            *interface = prepared;
        }
        interface.place = place.clone();
        interface.spec = Some(spec.clone());
        Ok(())
    }

    fn add_rules(&mut self, spec: &NetworkSpec) -> Result<(), Error> {
        self.ports.take(&spec.id, &spec.host_ports)?;
        if spec.host_ports.is_empty() {
            self.rules.remove(&spec.id);
        } else {
            self.rules.insert(spec.id.clone(), spec.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use host::fault::{Fault, Faults};
    use host::{Place, PodId, Prefix};

    use super::{FakeKernel, FakeNetwork};
    use crate::conformance::{self, Stage};
    use crate::{Network, NetworkSpec};

    #[test]
    fn the_fake_passes_the_conformance_suite() {
        let kernel = FakeKernel::default();
        conformance::run(&Stage {
            open: &|| Arc::new(FakeNetwork::new(kernel.clone(), Prefix::default())),
            place: &|id| Place::Netns(id.as_str().into()),
            remove_place: &|_| (),
            networks: vec!["10.9.0.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()],
            first_port: 30_000,
        });
    }

    #[test]
    fn a_pod_that_failed_half_way_is_in_the_inventory_until_it_is_detached() {
        let faults = Faults::default();
        let kernel = FakeKernel::new(faults.clone());
        let network = FakeNetwork::new(kernel.clone(), Prefix::default());
        network.configure(&["10.9.0.0/24".parse().unwrap()]).unwrap();
        let id = PodId::random();
        let spec = NetworkSpec {
            id: id.clone(),
            addresses: vec!["10.9.0.2/24".parse().unwrap()],
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: Vec::new(),
            firewall: crate::Firewall::Open,
        };
        faults.arm(2, Fault::FailBefore);
        assert!(network.attach(&spec, &Place::Jail("x".to_owned()), None).is_err());
        assert_eq!(network.inventory().unwrap(), std::slice::from_ref(&id));
        network.detach(&id, None).unwrap();
        assert!(!kernel.holds(&id) && network.inventory().unwrap().is_empty());
    }
}
