//! Attaches pods to the node's network: an interface with addresses, a default route and host ports. The boundary
//! speaks pods; bridges, epairs, veths, pf and nftables belong to the backends.
//!
//! Every call blocks and is idempotent. Every kernel name is computed from the prefix and the pod's id, so
//! [`Network::detach`] needs nothing else.

pub mod conformance;
mod error;
pub mod fake;
mod former;
pub mod hostport;
pub mod ipam;
mod links;
mod names;
pub mod netlink;
pub mod nft;
mod node;
pub mod pf;
pub mod ports;
mod repair;
mod state;
pub mod vnet;

#[cfg(target_os = "freebsd")]
#[path = "freebsd/mod.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::Error;
use host::{Need, Place, PodId, Prefix};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The settings of a backend.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The prefix of every kernel name.
    pub prefix: Prefix,
    /// The backend's directory, lost at a reboot: specs, locks and process ids of the listeners.
    pub state: PathBuf,
    /// Starts the listeners of host ports.
    pub workers: host::worker::Workers,
    /// Networks that pods reach without address translation, besides the pod networks.
    pub untranslated: Vec<IpNetwork>,
    /// The MTU of the pods' interfaces, in bytes.
    pub mtu: u32,
}

/// Opens the backend of this system. Creates the state directory and reserves the host ports of the recorded pods; does
/// not touch the kernel until [`Network::configure`].
///
/// # Errors
/// The state directory cannot be created or read.
pub fn open(settings: Settings) -> Result<Arc<dyn Network>, Error> {
    platform::open(settings)
}

/// The node's network.
pub trait Network: Send + Sync + 'static {
    /// Returns the requirements on the node and whether they are met. Reads only, and is cheap enough for every Status
    /// (5 s).
    fn needs(&self) -> Vec<Need>;

    /// Creates what all pods share: the bridge with the first address of each network, the address translation and the
    /// ruleset. Called before the first attach and whenever the pod networks change (UpdateRuntimeConfig). Idempotent:
    /// repairs missing parts. Pods of former networks keep working.
    ///
    /// # Errors
    /// [`Error::Invalid`] for unusable networks; any other when the kernel refuses.
    fn configure(&self, pod_networks: &[IpNetwork]) -> Result<(), Error>;

    /// Attaches a pod: interface `eth0` with its addresses, loopback, default route, host ports. With `spare`, the pod
    /// takes over the interface prepared for that spare. Idempotent: a second call applies the new spec. After a
    /// failure, [`Network::detach`] removes the partial attachment. A pod at [`Place::Host`] only has its host ports
    /// checked.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a taken host port; [`Error::Invalid`]; any other when the kernel refuses.
    fn attach(&self, spec: &NetworkSpec, place: &Place, spare: Option<&PodId>) -> Result<Attachment, Error>;

    /// Creates the interface of a spare pod in its place, without an address. Idempotent. [`Network::detach`] with the
    /// spare's id removes it.
    ///
    /// # Errors
    /// The kernel refuses.
    fn prepare(&self, spare: &PodId, place: &Place) -> Result<(), Error>;

    /// Removes what attach or prepare created, by the pod's id. If `place` still exists, drops its open connections
    /// first. Idempotent; call it again after a failure.
    ///
    /// # Errors
    /// Every failed step; the other steps were run.
    fn detach(&self, id: &PodId, place: Option<&Place>) -> Result<(), Error>;

    /// Returns the traffic of the pod's interface since the attach.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn counters(&self, id: &PodId) -> Result<Counters, Error>;

    /// Returns the traffic of every attached pod that has an interface, from one list of the interfaces.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    fn all_counters(&self) -> Result<BTreeMap<PodId, Counters>, Error>;

    /// Returns the pods and spares that have anything in the kernel or a record.
    ///
    /// # Errors
    /// The interfaces or rules cannot be listed.
    fn inventory(&self) -> Result<Vec<PodId>, Error>;

    /// Returns the attached pods whose interface the kernel still has. Reads only, and is cheap enough for every second.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    fn whole_pods(&self) -> Result<BTreeSet<PodId>, Error>;

    /// Compares what configure and attach made with what the kernel holds, and restores what is missing of the shared parts and
    /// of the routes, rules and listeners of these pods. Returns what was restored. Idempotent. Before the first configure there
    /// is nothing to restore.
    ///
    /// # Errors
    /// The kernel cannot be read; every part that cannot be restored, after the others were.
    fn reconcile(&self, pods: &[PodId]) -> Result<Vec<String>, Error>;

    /// Returns a descriptor that becomes readable when interfaces, addresses or routes change, for [`Network::reconcile`]; what
    /// is read from it means nothing. It does not block. Not every change is told: rulesets change in silence.
    ///
    /// # Errors
    /// The kernel refuses.
    fn changes(&self) -> Result<OwnedFd, Error>;

    /// Removes what [`Network::configure`] created (demo, tests). Idempotent.
    ///
    /// # Errors
    /// [`Error::Conflict`] while a pod is attached; otherwise every failed step, after the other steps were run.
    fn unconfigure(&self) -> Result<(), Error>;
}

/// The spec of a pod's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The pod.
    pub id: PodId,
    /// Its addresses with prefix lengths, the primary one first; empty for a pod on the host's network.
    pub addresses: Vec<IpNetwork>,
    /// Whether it has a default route.
    pub route: bool,
    /// Whether what it sends outside keeps its own address, since the networks there know the way back to it.
    #[serde(default)]
    pub keeps_source: bool,
    /// An interface of the node that the pod has besides its own until it is detached.
    #[serde(default)]
    pub lent: Option<Lent>,
    /// The host ports forwarded to it.
    pub host_ports: Vec<HostPort>,
    /// What may come to it that it did not ask for.
    #[serde(default)]
    pub firewall: Firewall,
}

impl NetworkSpec {
    /// Whether what the pod sends outside gets the node's address.
    pub(crate) fn is_translated(&self) -> bool {
        self.route && !self.keeps_source
    }
}

/// What may come to a pod that it did not ask for: from pods, the node and outside. What the pod itself begins, and the answers,
/// pass in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firewall {
    /// Everything.
    #[default]
    Open,
    /// Connections to these ports of the pod.
    Ports(Vec<(Protocol, u16)>),
    /// Nothing.
    Isolated,
}

/// An interface of the node in a pod: a network card, a VLAN, a virtual function, an end of an epair. What passes it, the node's
/// packet filter does not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// Its name, on the node and in the pod.
    pub name: String,
    /// Its addresses in the pod, with the prefix lengths of their networks.
    pub addresses: Vec<IpNetwork>,
}

/// A host port forwarded to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host address; None for all.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A pod's attachment, as created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The host's end of its interface; None on the host's network.
    pub host_interface: Option<String>,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
}

/// The traffic of an interface, as the pod sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// The interface inside the pod.
    pub interface: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that failed to be sent.
    pub tx_errors: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Packets dropped before sending.
    pub tx_dropped: u64,
}
