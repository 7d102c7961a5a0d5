//! The test environment: a node (where this program runs), an outside machine that has no route to pods, an
//! untranslated cluster network, and pods.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use host::run::Tool;
use host::{Place, PodId, Prefix};
use ipnetwork::IpNetwork;
use network::ipam::Ipam;
use network::{HostPort, Network, NetworkSpec, Protocol, Settings};

use crate::platform;

/// The limit for an expected answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(400);

/// The node's addresses towards the outside, and those of the machine there.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
/// An address of the machine outside that is in the cluster's network.
pub(crate) const CLUSTER: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];
/// The bridge's addresses.
pub(crate) const GATEWAY: [&str; 2] = ["10.77.0.1", "fd00:77::1"];
/// The prefix of every kernel name.
pub(crate) const PREFIX: &str = "ct";

/// Runs a script of the test's own.
pub(crate) fn sh(script: &str) -> String {
    let output = Tool::new("/bin/sh").args(["-e", "-c", script]).run().unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(output.stdout).unwrap()
}

/// A node with its outside.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) networks: Vec<IpNetwork>,
    pub(crate) ipam: Ipam,
    _state: tempfile::TempDir,
}

/// A pod and its spec.
pub(crate) struct Pod {
    pub(crate) spec: NetworkSpec,
    pub(crate) place: Place,
}

/// Returns the backend's settings with this state directory.
pub(crate) fn settings(state: &std::path::Path) -> Settings {
    Settings {
        prefix: PREFIX.parse::<Prefix>().unwrap(),
        state: state.join("network"),
        workers: host::worker::Workers::of_program(&std::env::current_exe().unwrap()),
        untranslated: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:2::/64".parse().unwrap()],
        mtu: 1500,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let networks: Vec<IpNetwork> = vec!["10.77.0.0/16".parse().unwrap(), "fd00:77::/64".parse().unwrap()];
        platform::add_outside();
        let ipam = Ipam::new(&networks).unwrap();
        Self { settings: settings(state.path()), networks, ipam, _state: state }
    }

    /// Opens and configures the network, as a new server does.
    pub(crate) fn open(&self) -> Arc<dyn Network> {
        let network = network::open(self.settings.clone()).unwrap();
        network.configure(&self.networks).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        network
    }

    /// Returns the spec of a new pod.
    pub(crate) fn spec(&mut self, route: bool, host_ports: Vec<HostPort>) -> NetworkSpec {
        NetworkSpec {
            id: PodId::random(),
            addresses: self.ipam.allocate(&[]).unwrap(),
            route,
            keeps_source: false,
            lent: None,
            host_ports,
            firewall: network::Firewall::Open,
        }
    }

    /// Attaches a new pod.
    pub(crate) fn pod(&mut self, network: &dyn Network, route: bool, host_ports: Vec<HostPort>) -> Pod {
        let spec = self.spec(route, host_ports);
        let place = platform::place(&spec.id);
        network.attach(&spec, &place, None).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        Pod { spec, place }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            platform::remove_outside();
        }
    }
}

impl Pod {
    pub(crate) fn address(&self, family: usize) -> String {
        self.spec.addresses[family].ip().to_string()
    }

    /// Returns the name of its network for the system's tools.
    pub(crate) fn inside(&self) -> String {
        platform::name(&self.spec.id)
    }

    /// Starts a TCP and UDP server in the pod.
    pub(crate) fn serve(&self, port: u16) {
        platform::serve(Some(&self.inside()), port);
    }

    pub(crate) fn remove(&self, network: &dyn Network) {
        network.detach(&self.spec.id, Some(&self.place)).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        platform::remove_place(&self.spec.id);
    }
}

pub(crate) fn host_port(protocol: Protocol, host_ip: Option<&str>, host_port: u16) -> HostPort {
    HostPort { protocol, host_ip: host_ip.map(|text| text.parse().unwrap()), host_port, container_port: 80 }
}

/// Calls a server from a network, None for the node's, and returns the caller's address as the server saw it.
pub(crate) fn call(from: Option<&str>, protocol: Protocol, to: &str, port: u16) -> Result<String, String> {
    platform::ask(from, protocol, SocketAddr::new(to.parse().unwrap(), port), PATIENCE)
}

/// Asserts that no server answers.
pub(crate) fn call_in_vain(from: Option<&str>, protocol: Protocol, to: &str, port: u16) {
    if let Ok(peer) = platform::ask(from, protocol, SocketAddr::new(to.parse().unwrap(), port), SILENCE) {
        panic!("{to} port {port} answered {peer} from {from:?}");
    }
}
