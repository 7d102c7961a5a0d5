//! The state of a running server: its backends, its records, and what is shared between calls.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::fault::Faults;
use ipnetwork::IpNetwork;
use network::Network;
use network::ipam::Ipam;
use runtime::Runtime;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::Error;
use crate::state::locks::Locks;
use crate::state::names::{self, Names};
use crate::state::record::{Disk, Loaded, Unreadable};
use crate::state::samples::Samples;
use crate::state::spare_pool::SparePool;
use crate::state::store::Store;
use crate::state::subscribers::Subscribers;

/// The file of the records, in the root directory.
const RECORDS: &str = "records.redb";

/// The crates below, as this server was given them.
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

/// A server's state. All calls share one.
pub struct Node {
    /// What it was configured with.
    pub(crate) config: Config,
    /// Pods and containers.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The pods' network.
    pub(crate) network: Arc<dyn Network>,
    /// Images and root file systems.
    pub(crate) images: image::Images,
    /// The name of the file system that roots are on.
    pub(crate) rootfs: &'static str,
    /// What it knows.
    pub(crate) store: Store,
    /// Whose name is whose.
    pub(crate) names: Names,
    /// Who may change what now.
    pub(crate) locks: Locks,
    /// Who wants to hear of changes.
    pub(crate) subscribers: Subscribers,
    /// Changes whenever a container's exit was noted.
    pub(crate) exits: watch::Sender<u64>,
    /// Pods made ahead.
    pub(crate) spares: SparePool,
    /// The last reading of each container's CPU time.
    pub(crate) samples: Samples,
    /// Where exec, attach and port-forward are served.
    pub(crate) streaming: streaming::Server,
    addresses: Mutex<Addresses>,
    unreadable: Vec<Unreadable>,
}

/// The pods' addresses; no pool until there is a pod network.
#[derive(Debug, Default)]
struct Addresses {
    networks: Vec<IpNetwork>,
    pool: Option<Ipam>,
    /// Whether the kernel has what all pods share; where it could not be made at the start, the next pod tries again.
    configured: bool,
}

/// What [`Node::open`] is given beside the backends.
pub struct Opening {
    /// The configuration.
    pub config: Config,
    /// Where exec, attach and port-forward are served.
    pub streaming: streaming::Server,
    /// Faults of the records, for tests; `Faults::default()` has none.
    pub faults: Faults,
}

impl Node {
    /// Reads the records. The kernel is not looked at before [`crate::lifecycle::recover::run`]. Blocking.
    ///
    /// # Errors
    /// The records cannot be read, or the pod networks are no networks for pods.
    pub(crate) fn open(backends: Backends, opening: Opening) -> Result<(Arc<Self>, Loaded), Error> {
        let Opening { config, streaming, faults } = opening;
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
        if !networks.is_empty() {
            node.set_pool(&networks)?;
        }
        Ok((Arc::new(node), loaded))
    }

    /// Runs blocking work on a thread that may block: the one place where the server does.
    pub(crate) async fn block<T, F>(self: &Arc<Self>, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Self>) -> T + Send + 'static,
    {
        let node = self.clone();
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&node))).await {
            Ok(outcome) => outcome,
            // The runtime shuts down only when the process ends, so what is left is a defect in the work.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Closes the records for good: nothing more of this server reaches the disk.
    pub fn close_records(&self) {
        self.store.disk().close();
    }

    /// Records that cannot be read: their objects are left alone.
    #[must_use]
    pub(crate) fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The pod networks in force.
    #[must_use]
    pub(crate) fn pod_networks(&self) -> Vec<IpNetwork> {
        self.addresses().networks.clone()
    }

    /// Makes these the pod networks: for pods to come. Blocking.
    ///
    /// # Errors
    /// They cannot be used, or the kernel says no; nothing was changed then.
    pub(crate) fn set_pod_networks(&self, networks: &[IpNetwork]) -> Result<(), Error> {
        network::ipam::check(networks)?;
        self.network.configure(networks)?;
        self.addresses().configured = true;
        self.store.disk().apply(&[crate::state::record::Change::PutPodNetworks(networks)])?;
        self.set_pool(networks)?;
        self.spares.wake();
        Ok(())
    }

    /// Makes what all pods share in the network, unless it was made. Blocking.
    ///
    /// # Errors
    /// The kernel says no.
    pub(crate) fn configure_network(&self) -> Result<(), Error> {
        let networks = self.pod_networks();
        if networks.is_empty() || self.addresses().configured {
            return Ok(());
        }
        self.network.configure(&networks)?;
        self.addresses().configured = true;
        Ok(())
    }

    /// Addresses for a pod, one of each family.
    ///
    /// # Errors
    /// There is no pod network yet, none is free, or a wanted one cannot be had.
    pub(crate) fn allocate(&self, wanted: &[IpAddr]) -> Result<Vec<IpNetwork>, Error> {
        let mut addresses = self.addresses();
        let pool = addresses.pool.as_mut().ok_or_else(|| Error::State {
            what: "there is no pod network yet: set network.pod_cidrs, or wait for kubelet to send one".to_owned(),
        })?;
        Ok(pool.allocate(wanted)?)
    }

    /// Gives addresses back. Not taken: done already.
    pub(crate) fn release(&self, addresses: &[IpNetwork]) {
        if let Some(pool) = self.addresses().pool.as_mut() {
            pool.release(&addresses.iter().map(IpNetwork::ip).collect::<Vec<_>>());
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
