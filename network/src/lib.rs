//! Joins a pod to the node's network: an interface with addresses, a way out, ports of the host that lead in. The boundary
//! speaks pods; bridges, epairs, veths, pf and nftables are the backends' business.
//!
//! All of it is blocking. Every call may be repeated, and every kernel name is computed from the prefix and the pod's id, so
//! that [`Network::detach`] needs nothing else.

pub mod conformance;
mod error;
pub mod fake;
pub mod hostport;
pub mod ipam;
mod links;
mod names;
pub mod netlink;
pub mod nft;
mod node;
pub mod pf;
pub mod ports;
mod state;
pub mod vnet;

#[cfg(target_os = "freebsd")]
#[path = "freebsd/mod.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::Error;
use host::{Need, Place, PodId, Prefix};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// What every backend is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every kernel name starts with.
    pub prefix: Prefix,
    /// A directory of the backend's own, lost at a reboot: sockets and specs of the loopback listeners.
    pub state: PathBuf,
    /// How the loopback listener is started.
    pub workers: host::worker::Workers,
    /// Networks that pods reach without translation besides their own (the cluster's).
    pub untranslated: Vec<IpNetwork>,
    /// The MTU of the pods' interfaces, in bytes.
    pub mtu: u32,
}

/// Opens the backend of this system: the state directory is made, the ports of the pods that are there are taken; the kernel
/// is not touched until [`Network::configure`].
///
/// # Errors
/// The state directory cannot be made or read.
pub fn open(settings: Settings) -> Result<Arc<dyn Network>, Error> {
    platform::open(settings)
}

/// The node's network, as far as pods are concerned.
pub trait Network: Send + Sync + 'static {
    /// What it needs of the node, and whether it holds. Reads only; cheap enough for every Status (5 s).
    fn needs(&self) -> Vec<Need>;

    /// Makes the bridge with the first address of each network, the translation and the ruleset: what all pods share.
    /// Called before the first attach and whenever the pod networks change (UpdateRuntimeConfig); twice: repairs what is
    /// missing. Pods of former networks keep working.
    ///
    /// # Errors
    /// [`Error::Invalid`] for networks that cannot be used; any other for a kernel that says no.
    fn configure(&self, pod_networks: &[IpNetwork]) -> Result<(), Error>;

    /// Joins a pod: interface `eth0` with its addresses, loopback up, default route, host ports. With `spare`, the interface
    /// that was prepared for that spare becomes this pod's. Twice: brought to what is wanted. Failing half way:
    /// [`Network::detach`] removes what was made. A pod at [`Place::Host`] needs only its host ports checked for being free.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a host port that is taken; [`Error::Invalid`]; any other for a kernel that says no.
    fn attach(&self, spec: &NetworkSpec, place: &Place, spare: Option<&PodId>) -> Result<Attachment, Error>;

    /// Makes the interface of a spare pod ahead and moves it into its place, without an address. Twice: kept.
    /// [`Network::detach`] with the spare's id removes it.
    ///
    /// # Errors
    /// The kernel says no.
    fn prepare(&self, spare: &PodId, place: &Place) -> Result<(), Error>;

    /// Removes all that attach or prepare made, by the pod's id; `place`, where it is still there, lets open connections be
    /// dropped first. Missing: done already. It may fail half way, and is then called again.
    ///
    /// # Errors
    /// What could not be removed; the rest was tried.
    fn detach(&self, id: &PodId, place: Option<&Place>) -> Result<(), Error>;

    /// What went through the pod's interface.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn counters(&self, id: &PodId) -> Result<Counters, Error>;

    /// The pods (and spares) of which anything is left.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn inventory(&self) -> Result<Vec<PodId>, Error>;

    /// Removes what [`Network::configure`] made, once no pod is left: for `cellblock` in a directory of its own (demo, tests).
    ///
    /// # Errors
    /// What could not be removed; the rest was tried.
    fn unconfigure(&self) -> Result<(), Error>;
}

/// A pod's network that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The pod.
    pub id: PodId,
    /// Its addresses with the networks they are in, the primary one first; empty for a pod on the host's network.
    pub addresses: Vec<IpNetwork>,
    /// Whether it has a default route and is translated on its way out.
    pub route: bool,
    /// The host's ports that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address it answers on; None: all.
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

/// A pod's place on the network, as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The host's end of its interface; None on the host's network.
    pub host_interface: Option<String>,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
}

/// What went through an interface, as the pod sees it.
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
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
}
