//! Linux: all of it in a network and a mount namespace of its own, so that it leaves nothing behind and meets nobody. A thread
//! enters the namespace of a pod.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use host::run::Tool;
use host::{Place, PodId};
use network::Protocol;
use nix::sched::{CloneFlags, setns, unshare};

use crate::wire::{self, Server};
use crate::world::{CLUSTER, NODE, OUTSIDE, sh};

/// The name of the machine outside.
pub(crate) const OUTSIDE_NAME: &str = "outside";
/// An attach without host ports is to take no longer: it runs no program.
pub(crate) const ATTACH: Duration = Duration::from_millis(30);

/// Returns why the tests cannot run here.
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

/// The namespaces end with the program.
pub(crate) fn leave() {}

/// Prints the kernel state that a leak would change.
pub(crate) fn kernel() -> String {
    sh("ip -o link | sed 's/^[0-9]*: //'; nft list ruleset; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding")
}

pub(crate) fn add_outside() {
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
}

pub(crate) fn remove_outside() {
    // The threads that serve in it keep the namespace itself.
    sh("ip link del node0; ip netns del outside");
}

/// Adds routes to the pods on the outside machine.
pub(crate) fn cluster_knows_the_pods() {
    sh(&format!(
        "ip -n outside route add 10.77.0.0/16 via {} src {}; ip -n outside -6 route add fd00:77::/64 via {} src {}",
        NODE[0], CLUSTER[0], NODE[1], CLUSTER[1]
    ));
}

/// Makes an interface that may be lent, and one of the node that leads to it.
pub(crate) fn add_lendable(name: &str, peer: &str, address: &str) {
    sh(&format!(
        "ip link add {name} type veth peer name {peer}; ip addr add {address}/24 dev {peer}; ip link set {peer} up"
    ));
}

pub(crate) fn remove_lendable(peer: &str) {
    sh(&format!("ip link del {peer}"));
}

pub(crate) fn add_node_address(address: &str) {
    sh(&format!("ip addr add {address}/24 dev node0"));
}

pub(crate) fn remove_node_address(address: &str) {
    sh(&format!("ip addr del {address}/24 dev node0"));
}

pub(crate) fn add_default_route(name: &str, gateway: &str) {
    sh(&format!("ip -n {name} route add default via {gateway}"));
}

/// Gives a pod an address that is not its own.
pub(crate) fn add_pod_address(name: &str, address: &str) {
    let length = if address.contains(':') { ("128", " nodad") } else { ("32", "") };
    sh(&format!("ip -n {name} addr add {address}/{} dev eth0{}", length.0, length.1));
}

/// Flushes all rules, as a firewall reload does.
pub(crate) fn flush_rules() {
    sh("nft flush ruleset");
}

/// What may happen to the network behind the server's back; `name` is a pod.
pub(crate) fn damages(name: &str) -> [(&'static str, String); 9] {
    [
        ("the ruleset flushed", "nft flush ruleset".to_owned()),
        (
            "a chain deleted",
            "nft flush chain inet cellblock-ct spoofed; nft delete chain inet cellblock-ct spoofed".to_owned(),
        ),
        (
            "a rule deleted",
            "nft delete rule inet cellblock-ct redirects $(nft -a list chain inet cellblock-ct redirects | \
             grep -o 'handle [0-9]*$' | tail -1)"
                .to_owned(),
        ),
        (
            "a pod's chain flushed",
            "for t in $(nft list tables inet | grep -o 'cellblock-ct-.*'); do nft flush chain inet $t prerouting; done"
                .to_owned(),
        ),
        ("the bridge removed", "ip link del ctbr0".to_owned()),
        ("the bridge down", "ip link set ctbr0 down".to_owned()),
        ("an address removed", "ip addr del 10.77.0.1/16 dev ctbr0".to_owned()),
        ("a pod's interface down", format!("ip link set ct{name}o down")),
        (
            "a pod's route removed",
            format!(
                "ip route flush dev ct{name}o; ip -6 route del $(ip -6 route | grep -o '^fd00:77::[^ ]* dev ct{name}o')"
            ),
        ),
    ]
}

/// Destroys a pod's interface.
pub(crate) fn destroy(name: &str) -> String {
    format!("ip link del ct{name}o")
}

/// Describes a process's memory.
pub(crate) fn memory(pid: &str) -> String {
    let rollup = sh(&format!("cat /proc/{pid}/smaps_rollup"));
    let kilobytes = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    format!("{} kB private", kilobytes("Private_Clean:") + kilobytes("Private_Dirty:"))
}

pub(crate) fn name(id: &PodId) -> String {
    id.short().to_owned()
}

/// Creates a place for a pod.
pub(crate) fn place(id: &PodId) -> Place {
    sh(&format!("ip netns add {}", name(id)));
    Place::Netns(PathBuf::from("/run/netns").join(name(id)))
}

pub(crate) fn remove_place(id: &PodId) {
    sh(&format!("ip netns del {}", name(id)));
}

/// A namespace is gone when its last user is; nothing keeps one as a connection does a jail.
pub(crate) fn wait_until_gone(_id: &PodId) {}

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

/// Answers in a namespace until the program ends.
pub(crate) fn serve(netns: Option<&str>, port: u16) {
    inside(netns, move || Server::open(port)).serve();
}

pub(crate) fn ask(from: Option<&str>, protocol: Protocol, to: SocketAddr, wait: Duration) -> Result<String, String> {
    inside(from, move || wire::ask(protocol, to, wait)).map_err(|error| error.to_string())
}

/// Sends a datagram from a namespace, by a source address.
pub(crate) fn send(from: &str, source: IpAddr, to: SocketAddr) {
    // The kernel may know already that nothing leads there.
    let _ = inside(Some(from), move || wire::send(source, to));
}

/// Opens a connection from a namespace to one that will never answer it again.
pub(crate) fn stall(from: &str, to: SocketAddr) {
    let stream = inside(Some(from), move || std::net::TcpStream::connect(to).unwrap());
    std::mem::forget(stream);
}

/// Cuts the way to the outside machine.
pub(crate) fn close_the_way() {
    // What is sent to its old MAC is not for it any more.
    sh("ip -n outside link set eth0 address 02:00:00:00:00:99");
}
