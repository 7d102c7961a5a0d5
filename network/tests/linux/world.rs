//! The stage: a node (the namespace that this program isolated itself in), a machine outside of it that knows no pod, a
//! network of the cluster that is not translated, and pods. Servers are threads that entered a namespace, and answer with
//! the address they were called from.

#![expect(clippy::unwrap_used, reason = "a test program with a main of its own is a test all the same")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use host::run::Tool;
use host::{Place, PodId, Prefix};
use ipnetwork::IpNetwork;
use network::ipam::Ipam;
use network::{HostPort, Network, PodNetwork, Protocol, Settings};
use nix::sched::{CloneFlags, setns, unshare};

/// How long an answer may take that is expected to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(400);

/// The node's addresses towards the outside, and those of the machine there.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
/// An address of the machine outside that is in the cluster's network.
pub(crate) const CLUSTER: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];

/// Why it cannot run here.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let broken = |program: &&&str| Tool::new(program).args(["-V"]).run().is_err();
    ["nft", "ip"].iter().find(broken).map(|program| format!("{program} is not installed"))
}

/// Leaves the machine's network and mounts, before any other thread exists.
pub(crate) fn isolate() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    sh("mount --make-rprivate /; mkdir -p /run/netns; mount -t tmpfs cb-test /run/netns; ip link set lo up");
}

/// Runs a script of the test's own.
pub(crate) fn sh(script: &str) -> String {
    let output = Tool::new("sh").args(["-e", "-c", script]).run().unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything in the kernel that a leak would change.
pub(crate) fn kernel() -> String {
    sh("ip -o link | sed 's/^[0-9]*: //'; nft list ruleset; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding; \
        ps -eo args | grep '[h]ostport /' | grep -c \"$TMPDIR\" || true")
}

/// A node with its outside.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) networks: Vec<IpNetwork>,
    pub(crate) ipam: Ipam,
    _state: tempfile::TempDir,
}

/// A pod and what it was given.
pub(crate) struct Pod {
    pub(crate) wanted: PodNetwork,
    pub(crate) place: Place,
}

impl World {
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let networks: Vec<IpNetwork> = vec!["10.77.0.0/16".parse().unwrap(), "fd00:77::/64".parse().unwrap()];
        let settings = Settings {
            prefix: "ct".parse::<Prefix>().unwrap(),
            state: state.path().join("network"),
            workers: host::worker::Workers::of_program(&std::env::current_exe().unwrap()),
            untranslated: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:2::/64".parse().unwrap()],
            mtu: 1500,
        };
        sh(&format!(
            "ip netns add outside
             ip link add node0 type veth peer name eth0 netns outside
             ip addr add {}/24 dev node0; ip addr add {}/64 dev node0 nodad; ip link set node0 up
             ip -n outside addr add {}/24 dev eth0; ip -n outside addr add {}/64 dev eth0 nodad
             ip -n outside addr add {}/32 dev eth0; ip -n outside addr add {}/128 dev eth0 nodad
             ip -n outside link set eth0 up; ip -n outside link set lo up
             ip route add 198.51.100.0/24 via {}; ip route add 2001:db8:2::/64 via {}",
            NODE[0], NODE[1], OUTSIDE[0], OUTSIDE[1], CLUSTER[0], CLUSTER[1], OUTSIDE[0], OUTSIDE[1],
        ));
        let ipam = Ipam::new(&networks).unwrap();
        Self { settings, networks, ipam, _state: state }
    }

    /// The network, opened as a server that was just started does.
    pub(crate) fn open(&self) -> Arc<dyn Network> {
        let network = network::open(self.settings.clone()).unwrap();
        network.configure(&self.networks).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        network
    }

    /// Makes a pod with these host ports.
    pub(crate) fn pod(&mut self, network: &dyn Network, route: bool, host_ports: Vec<HostPort>) -> Pod {
        let wanted = PodNetwork { id: PodId::random(), addresses: self.ipam.allocate(&[]).unwrap(), route, host_ports };
        let place = place(&wanted.id);
        network.attach(&wanted, &place, None).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        Pod { wanted, place }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !thread::panicking() {
            // The threads that serve in it keep the namespace itself.
            sh("ip link del node0; ip netns del outside");
        }
    }
}

impl Pod {
    pub(crate) fn address(&self, family: usize) -> String {
        self.wanted.addresses[family].ip().to_string()
    }

    pub(crate) fn netns(&self) -> String {
        self.wanted.id.short().to_owned()
    }

    /// Starts what answers in the pod, on this port, by TCP and UDP.
    pub(crate) fn serve(&self, port: u16) {
        serve(Some(&self.netns()), port);
    }

    pub(crate) fn remove(&self, network: &dyn Network) {
        network.detach(&self.wanted.id, Some(&self.place)).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        remove_place(&self.wanted.id);
    }
}

/// A network namespace for a pod.
pub(crate) fn place(id: &PodId) -> Place {
    sh(&format!("ip netns add {}", id.short()));
    Place::Netns(PathBuf::from("/run/netns").join(id.short()))
}

pub(crate) fn remove_place(id: &PodId) {
    sh(&format!("ip netns del {}", id.short()));
}

pub(crate) fn host_port(protocol: Protocol, host_ip: Option<&str>, host_port: u16) -> HostPort {
    HostPort { protocol, host_ip: host_ip.map(|text| text.parse().unwrap()), host_port, container_port: 80 }
}

/// Does something in a namespace, None for the node's; the thread ends with it.
fn inside<T: Send + 'static>(netns: Option<&str>, what: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.map(|name| File::open(format!("/run/netns/{name}")).unwrap());
    let entered = thread::spawn(move || {
        if let Some(netns) = netns {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        }
        what()
    });
    entered.join().unwrap()
}

/// Answers in a namespace, by TCP and UDP on both families, with the caller's address.
pub(crate) fn serve(netns: Option<&str>, port: u16) {
    let (tcp, udp) = inside(netns, move || {
        let udp = ["0.0.0.0", "::"].map(|any| bind_udp(SocketAddr::new(any.parse().unwrap(), port)));
        (TcpListener::bind(("::", port)).unwrap(), udp)
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
    for socket in udp {
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
    }
}

fn bind_udp(address: SocketAddr) -> UdpSocket {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.into()
}

/// Calls a server from a namespace: who it says the caller is.
pub(crate) fn call(from: Option<&str>, protocol: Protocol, to: &str, port: u16) -> Result<String, String> {
    ask(from, protocol, to, port, PATIENCE)
}

/// Calls a server that must not answer.
pub(crate) fn call_in_vain(from: Option<&str>, protocol: Protocol, to: &str, port: u16) {
    if let Ok(peer) = ask(from, protocol, to, port, SILENCE) {
        panic!("{to} port {port} answered {peer} from {from:?}");
    }
}

fn ask(from: Option<&str>, protocol: Protocol, to: &str, port: u16, wait: Duration) -> Result<String, String> {
    let address = SocketAddr::new(to.parse::<IpAddr>().unwrap(), port);
    inside(from, move || match protocol {
        Protocol::Udp => ask_udp(address, wait),
        _ => ask_tcp(address, wait),
    })
    .map_err(|error| error.to_string())
}

fn ask_tcp(address: SocketAddr, wait: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, wait)?;
    stream.set_read_timeout(Some(wait))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

fn ask_udp(address: SocketAddr, wait: Duration) -> std::io::Result<String> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(wait))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
