//! The state of a running server: its backends, its records, and what calls share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::ContainerId;
use host::fault::Faults;
use host::worker::Workers;
use ipnetwork::IpNetwork;
use network::Network;
use network::ipam::{Ipam, Named};
use runtime::Runtime;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::error::Error;
use crate::state::clock::now;
use crate::state::locks::Locks;
use crate::state::names::{self, Names};
use crate::state::needs::Needs;
use crate::state::record::{Disk, FormerAddresses, Loaded, Unreadable};
use crate::state::samples::{Samples, Written};
use crate::state::spare_pool::SparePool;
use crate::state::store::Store;
use crate::state::subscribers::Subscribers;

/// The file of the records, in the root directory.
const RECORDS: &str = "records.redb";
/// The name server's directory in the state directory.
pub(crate) const NAMESERVER: &str = "nameserver";

/// Whether a root directory has records.
pub(crate) fn has_records(root: &Path) -> bool {
    root.join(RECORDS).exists()
}

/// The boundaries that a server runs on.
#[derive(Clone)]
pub struct Backends {
    /// Pods and containers.
    pub runtime: Arc<dyn Runtime>,
    /// The pods' network.
    pub network: Arc<dyn Network>,
    /// Images and root file systems.
    pub images: image::Images,
    /// The name of the file system that roots are on.
    pub rootfs: &'static str,
}

/// The state of a server, shared by all calls.
pub struct Node {
    pub(crate) config: Config,
    /// Pods and containers.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The pods' network.
    pub(crate) network: Arc<dyn Network>,
    /// Images and root file systems.
    pub(crate) images: image::Images,
    /// The name of the file system that roots are on.
    pub(crate) rootfs: &'static str,
    pub(crate) store: Store,
    pub(crate) names: Names,
    pub(crate) locks: Locks,
    /// The clients of GetContainerEvents.
    pub(crate) subscribers: Subscribers,
    /// Changes with every exit that is recorded.
    pub(crate) exits: watch::Sender<u64>,
    /// Pods made ahead.
    pub(crate) spares: SparePool,
    pub(crate) samples: Samples,
    /// The time between two passes of `lifecycle::written`.
    pub(crate) written_period: Duration,
    /// What the backends need of the node.
    pub(crate) needs: Needs,
    network_repairs: Mutex<Repairs>,
    /// Why pods' names are not answered; None: they are.
    nameless: Mutex<Option<String>>,
    /// Held while the name server is started or stopped; true: this server starts none any more.
    pub(crate) nameserver_stopped: Mutex<bool>,
    /// This program, found at the start: its file may be replaced while it runs.
    pub(crate) workers: Option<Workers>,
    /// What the server's own tasks do on threads that may block: it goes on when the task is aborted.
    tending: TaskTracker,
    /// Where exec, attach and port-forward are served.
    pub(crate) streaming: streaming::Server,
    addresses: Mutex<Addresses>,
    unreadable: Vec<Unreadable>,
}

/// The addresses of pods. There is no pool until there is a pod network.
#[derive(Debug, Default)]
struct Addresses {
    networks: Vec<IpNetwork>,
    pool: Option<Ipam>,
    /// The addresses that pods had before the start, until there is a pool.
    former: Vec<(String, FormerAddresses)>,
    /// Whether the kernel has the shared part of the network. If the start could not make it, the next pod tries again.
    configured: bool,
}

/// The repairs of the network since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repairs {
    /// Parts that were restored.
    pub(crate) count: u64,
    /// Those of the last repair.
    pub(crate) last: Vec<String>,
    /// Why the network could not be restored; None: it is whole.
    pub(crate) failure: Option<String>,
}

impl Repairs {
    pub(crate) fn succeed(&mut self, restored: Vec<String>) {
        self.failure = None;
        if !restored.is_empty() {
            self.count += restored.len() as u64;
            self.last = restored;
        }
    }
}

/// What a server needs beside its backends.
pub struct Opening {
    /// The configuration.
    pub config: Config,
    /// Where exec, attach and port-forward are served.
    pub streaming: streaming::Server,
    /// Faults of the records, for tests; `Faults::default()` has none.
    pub faults: Faults,
    /// The time between two readings of what containers have written to their roots; tests have a shorter one than the server.
    pub written_period: Duration,
}

impl Node {
    /// Reads the records; `lifecycle::recover` compares them with the kernel later. Blocking.
    pub(crate) fn open(backends: Backends, opening: Opening) -> Result<(Arc<Self>, Loaded), Error> {
        let Opening { config, streaming, faults, written_period } = opening;
        let disk = Disk::open(&config.root.join(RECORDS), faults)?;
        let loaded = disk.load()?;
        let networks = loaded.pod_networks.clone().unwrap_or_else(|| config.network.pod_cidrs.clone());
        let Backends { runtime, network, images, rootfs } = backends;
        let node = Self {
            store: Store::new(disk, &loaded),
            names: Names::default(),
            locks: Locks::default(),
            subscribers: Subscribers::default(),
            exits: watch::channel(0).0,
            spares: SparePool::new(config.spares),
            samples: Samples::default(),
            written_period,
            needs: Needs::default(),
            network_repairs: Mutex::default(),
            nameserver_stopped: Mutex::default(),
            tending: TaskTracker::new(),
            workers: Workers::of_this_program().ok(),
            nameless: Mutex::new(Some("the name server does not run yet".to_owned())),
            addresses: Mutex::default(),
            unreadable: loaded.unreadable.clone(),
            config,
            runtime,
            network,
            images,
            rootfs,
            streaming,
        };
        node.reserve_known(&loaded);
        node.addresses().former = loaded.addresses.clone().into_iter().collect();
        if !networks.is_empty() {
            node.set_pool(&networks)?;
        }
        Ok((Arc::new(node), loaded))
    }

    /// Runs blocking work on a thread that may block. Nothing else in the server does.
    pub(crate) async fn block<T, F>(self: &Arc<Self>, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Self>) -> T + Send + 'static,
    {
        let node = self.clone();
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&node))).await {
            Ok(outcome) => outcome,
            // The runtime shuts down only when the process ends, so the error is a panic in the work.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// [`Node::block`] for the server's own tasks: [`Node::tended`] waits for it.
    pub(crate) async fn tend<T, F>(self: &Arc<Self>, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Self>) -> T + Send + 'static,
    {
        let token = self.tending.token();
        self.block(move |node| {
            let done = work(node);
            drop(token);
            done
        })
        .await
    }

    /// Waits until nothing of [`Node::tend`] is under way, once its tasks are aborted.
    pub(crate) async fn tended(&self) {
        self.tending.close();
        self.tending.wait().await;
    }

    /// What a container has written to its root, by the last reading. None: it cannot be read. Blocking.
    pub(crate) fn written(&self, id: &ContainerId) -> Option<Written> {
        self.samples.written(id, now(), || self.images.container_usage(id))
    }

    /// Closes the records for good: this server writes nothing more to disk.
    pub fn close_records(&self) {
        self.store.disk().close();
    }

    /// Records that cannot be read. Their objects are left alone.
    pub(crate) fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The pod networks in force.
    pub(crate) fn pod_networks(&self) -> Vec<IpNetwork> {
        self.addresses().networks.clone()
    }

    /// Sets the pod networks of later pods. If the kernel refuses, nothing changes. Blocking.
    pub(crate) fn set_pod_networks(&self, networks: &[IpNetwork]) -> Result<(), Error> {
        network::ipam::check(networks)?;
        self.network.configure(networks)?;
        self.addresses().configured = true;
        self.store.disk().apply(&[crate::state::record::Change::PutPodNetworks(networks)])?;
        self.set_pool(networks)?;
        self.spares.wake();
        self.needs.wake();
        Ok(())
    }

    /// Configures the shared part of the network. Idempotent. Blocking.
    pub(crate) fn configure_network(&self) -> Result<(), Error> {
        let networks = self.pod_networks();
        if networks.is_empty() || self.addresses().configured {
            return Ok(());
        }
        self.network.configure(&networks)?;
        self.addresses().configured = true;
        self.needs.wake();
        Ok(())
    }

    pub(crate) fn network_repairs(&self) -> MutexGuard<'_, Repairs> {
        self.network_repairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why pods' names are not answered, if they are configured; None: they are.
    pub(crate) fn nameless(&self) -> Option<String> {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_nameless(&self, why: Option<String>) {
        *self.nameless.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Allocates addresses for a pod of this name, one of each family.
    pub(crate) fn allocate(&self, name: &str, wanted: &[IpAddr]) -> Result<Named, Error> {
        let mut addresses = self.addresses();
        let pool = addresses.pool.as_mut().ok_or_else(|| Error::State {
            what: "there is no pod network yet: set network.pod_cidrs, or wait for kubelet to send one".to_owned(),
        })?;
        Ok(pool.allocate_named(name, now(), wanted)?)
    }

    /// Releases the addresses of a pod of this name, and remembers them for its successor. Idempotent.
    pub(crate) fn release(&self, name: &str, addresses: &[IpNetwork]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(IpNetwork::ip).collect();
        if let Some(pool) = self.addresses().pool.as_mut().filter(|_| !addresses.is_empty()) {
            pool.release(&addresses);
            pool.remember(name, now(), &addresses);
        }
    }

    fn set_pool(&self, networks: &[IpNetwork]) -> Result<(), Error> {
        let mut addresses = self.addresses();
        match addresses.pool.as_mut() {
            Some(pool) => pool.reconfigure(networks)?,
            None => {
                let mut pool = Ipam::new(networks)?;
                let taken: BTreeSet<IpAddr> = self.store.addresses().into_iter().collect();
                pool.take(&taken.into_iter().collect::<Vec<_>>());
                addresses.former.sort_by_key(|(_, had)| had.at);
                for (name, had) in std::mem::take(&mut addresses.former) {
                    pool.remember(&name, had.at, &had.addresses);
                }
                addresses.pool = Some(pool);
            }
        }
        addresses.networks = networks.to_vec();
        Ok(())
    }

    fn reserve_known(&self, loaded: &Loaded) {
        for pod in loaded.pods.values() {
            let Some(metadata) = &pod.config.metadata else { continue };
            self.names.take(&names::of_pod(metadata), pod.id.as_str());
        }
        for container in loaded.containers.values() {
            let pod = loaded.pods.get(&container.pod).and_then(|pod| pod.config.metadata.as_ref());
            if let (Some(pod), Some(metadata)) = (pod, &container.config.metadata) {
                self.names.take(&names::of_container(metadata, pod), container.id.as_str());
            }
        }
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
