//! FreeBSD: on the machine itself, which is to be one for tests: it loads a pf ruleset where there is none. Pods are jails with a
//! vnet whose root is the machine's, so that programs run in them by jexec(8).

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use host::run::Tool;
use host::{Place, PodId};
use network::Protocol;

use crate::world::{CLUSTER, NODE, OUTSIDE, PREFIX, sh};

/// The name of the machine outside.
pub(crate) const OUTSIDE_NAME: &str = "ctoutside";
/// An emulated machine takes seconds for what a real one does in milliseconds: it is only printed.
pub(crate) const ATTACH: Duration = Duration::from_secs(60);
/// Where [`isolate`] notes what it changed, for [`leave`].
const STATE: &str = "/tmp/cellblock-network-test";
/// What makes the machine forward.
const FORWARDING: &str = "net.inet.ip.forwarding net.inet6.ip6.forwarding";
/// What takes a vnet out of ipfw.
const IPFW_OFF: &str = "net.inet.ip.fw.enable=0 net.inet6.ip6.fw.enable=0";
/// How long a jail may be dying: a retransmission that is not dropped takes over a minute.
const DYING: Duration = Duration::from_secs(20);

/// Servers that run, with the jail they are in.
static SERVERS: Mutex<Vec<(Option<String>, Child)>> = Mutex::new(Vec::new());

/// Returns why the tests cannot run here.
pub(crate) fn missing() -> Option<String> {
    (!nix::unistd::geteuid().is_root()).then(|| "it needs root".to_owned())
}

/// Removes leftovers of a failed test and loads the ruleset.
pub(crate) fn isolate() {
    sh(&format!(
        "for j in $(jls -d name | grep '^{PREFIX}' || true); do jail -R $j || true; done
         for i in $(ifconfig -l); do case $i in {PREFIX}*|node0) ifconfig $i destroy || true;; esac; done
         for a in $(pfctl -a cellblock-{PREFIX} -s Anchors 2>/dev/null); do pfctl -q -a $a -f /dev/null; done"
    ));
    sh(&format!(
        "mkdir -p {STATE}; kldload -n pf
         if [ -z \"$(pfctl -s nat)$(pfctl -s rules)\" ]; then
             touch {STATE}/ruleset
             pfctl -q -f - <<'END'
nat-anchor \"cellblock-{PREFIX}/*\"
rdr-anchor \"cellblock-{PREFIX}/*\"
pass out all
block in all
pass quick on lo0 all
pass in quick proto tcp from any to any port 22
pass in quick inet6 proto icmp6 all
anchor \"cellblock-{PREFIX}/*\"
END
         fi
         pfctl -s info | grep -q 'Status: Enabled' || {{ touch {STATE}/enabled; pfctl -q -e; }}
         for name in {FORWARDING}; do
             [ \"$(sysctl -n $name)\" != 0 ] || {{ touch {STATE}/$name; sysctl -q $name=1; }}
         done"
    ));
}

pub(crate) fn leave() {
    sh(&format!(
        "[ ! -e {STATE}/ruleset ] || pfctl -q -f /dev/null
         [ ! -e {STATE}/enabled ] || pfctl -q -d
         for name in {FORWARDING}; do [ ! -e {STATE}/$name ] || sysctl -q $name=0; done
         rm -r {STATE}"
    ));
}

/// Prints the kernel state that a leak would change.
pub(crate) fn kernel() -> String {
    sh(&format!(
        "ifconfig -l | tr ' ' '\\n' | sort; pfctl -a cellblock-{PREFIX} -s Anchors 2>/dev/null | grep -v /node || true; jls name | sort; \
         sysctl net.inet.ip.forwarding net.inet6.ip6.forwarding"
    ))
}

pub(crate) fn add_outside() {
    sh(&format!(
        "e=$(ifconfig epair create); ifconfig $e name node0 >/dev/null
         jail -c name={OUTSIDE_NAME} vnet persist path=/
         ifconfig ${{e%a}}b vnet {OUTSIDE_NAME}
         jexec {OUTSIDE_NAME} ifconfig ${{e%a}}b name eth0 >/dev/null
         ifconfig node0 inet {}/24 up; ifconfig node0 inet6 {}/64 no_dad -ifdisabled
         jexec {OUTSIDE_NAME} ifconfig lo0 127.0.0.1/8 up
         jexec {OUTSIDE_NAME} ifconfig eth0 inet {}/24 up; jexec {OUTSIDE_NAME} ifconfig eth0 inet6 {}/64 no_dad -ifdisabled
         jexec {OUTSIDE_NAME} ifconfig lo0 inet {}/32 alias; jexec {OUTSIDE_NAME} ifconfig lo0 inet6 {}/128
         route -q add -net 198.51.100.0/24 {} >/dev/null; route -q -6 add -net 2001:db8:2::/64 {} >/dev/null",
        NODE[0], NODE[1], OUTSIDE[0], OUTSIDE[1], CLUSTER[0], CLUSTER[1], OUTSIDE[0], OUTSIDE[1],
    ));
}

pub(crate) fn remove_outside() {
    stop_servers(None);
    stop_servers(Some(OUTSIDE_NAME));
    sh(&format!("ifconfig node0 destroy; jail -r {OUTSIDE_NAME}; route -q delete -net 198.51.100.0/24 || true"));
    sh("route -q -6 delete -net 2001:db8:2::/64 || true");
}

/// Adds routes to the pods on the outside machine.
pub(crate) fn cluster_knows_the_pods() {
    sh(&format!(
        "jexec {OUTSIDE_NAME} route -q add -net 10.77.0.0/16 {}; jexec {OUTSIDE_NAME} route -q -6 add -net fd00:77::/64 {}",
        NODE[0], NODE[1]
    ));
}

/// Makes an interface that may be lent, and one of the node that leads to it.
pub(crate) fn add_lendable(name: &str, peer: &str, address: &str) {
    sh(&format!(
        "e=$(ifconfig epair create); ifconfig ${{e%a}}b name {name} >/dev/null; ifconfig $e name {peer} >/dev/null
         ifconfig {peer} inet {address}/24 up"
    ));
}

pub(crate) fn remove_lendable(peer: &str) {
    sh(&format!("ifconfig {peer} destroy"));
}

pub(crate) fn add_node_address(address: &str) {
    sh(&format!("ifconfig node0 inet {address}/32 alias"));
}

pub(crate) fn remove_node_address(address: &str) {
    sh(&format!("ifconfig node0 inet {address} -alias"));
}

pub(crate) fn add_default_route(name: &str, gateway: &str) {
    sh(&format!("jexec {name} route -q add default {gateway}"));
}

/// Gives a pod an address that is not its own.
pub(crate) fn add_pod_address(name: &str, address: &str) {
    let (family, length, flags) = if address.contains(':') { ("inet6", 128, "no_dad") } else { ("inet", 32, "") };
    sh(&format!("jexec {name} ifconfig eth0 {family} {address}/{length} {flags} alias"));
}

fn flushed() -> String {
    format!(
        "for a in $(pfctl -a cellblock-{PREFIX} -s Anchors); do pfctl -q -a $a -F nat; pfctl -q -a $a -F rules; done"
    )
}

/// Flushes all rules, as an operator may.
pub(crate) fn flush_rules() {
    sh(&flushed());
}

/// What may happen to the network behind the server's back; `name` is a pod.
pub(crate) fn damages(name: &str) -> [(&'static str, String); 7] {
    // The machine itself and the one outside stay open. It goes in any case: who is locked out cannot unload it.
    let ipfw = format!(
        "(sleep 600; kldunload ipfw) >/dev/null 2>&1 &
         kldload ipfw; sysctl -q {IPFW_OFF} >/dev/null; jexec {OUTSIDE_NAME} sysctl -q {IPFW_OFF} >/dev/null"
    );
    [
        ("a pod's network closed by ipfw", ipfw),
        ("the anchors flushed", flushed()),
        ("the bridge removed", format!("ifconfig {PREFIX}br0 destroy")),
        ("an address removed", format!("ifconfig {PREFIX}br0 inet 10.77.0.1 -alias")),
        ("another address of the node", "ifconfig node0 inet 203.0.113.7/32 alias; ifconfig node0 inet 203.0.113.7 -alias; ifconfig lo1 create inet 203.0.113.8/32".to_owned()),
        ("a pod's interface down", format!("ifconfig {name}o down; route -q delete -host $(jexec {name} ifconfig eth0 | awk '$1 == \"inet\" {{ print $2 }}')")),
        ("a pod's route removed", format!("route -q -6 delete -host $(jexec {name} ifconfig eth0 | awk '$1 == \"inet6\" && $2 !~ /%/ {{ print $2 }}')")),
    ]
}

/// Destroys a pod's interface, and what the above made.
pub(crate) fn destroy(name: &str) -> String {
    format!("ifconfig {name}o destroy; ifconfig lo1 destroy; kldunload ipfw || true")
}

/// Describes a process's memory.
pub(crate) fn memory(pid: &str) -> String {
    let private =
        sh(&format!("procstat -h vm {pid} | awk '$10 != \"vn\" {{ private += $5 }} END {{ print private * 4 }}'"));
    format!("{} kB in pages that are no file's", private.trim())
}

pub(crate) fn name(id: &PodId) -> String {
    format!("{PREFIX}{}", id.short())
}

/// Creates a place for a pod.
pub(crate) fn place(id: &PodId) -> Place {
    sh(&format!("jail -c name={} vnet persist path=/", name(id)));
    Place::Jail(name(id))
}

pub(crate) fn remove_place(id: &PodId) {
    stop_servers(Some(&name(id)));
    sh(&format!("jail -r {}", name(id)));
}

/// Waits until the jail is not even dying any more.
pub(crate) fn wait_until_gone(id: &PodId) {
    let started = Instant::now();
    while !sh(&format!("jls -d name | grep -x {} || true", name(id))).is_empty() {
        assert!(started.elapsed() < DYING, "the jail is dying for {DYING:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn stop_servers(of: Option<&str>) {
    for (jail, child) in SERVERS.lock().unwrap().iter_mut().filter(|(jail, _)| jail.as_deref() == of) {
        let _ = child.kill();
        child.wait().unwrap();
        *jail = Some(String::new());
    }
}

/// This program in a jail.
fn wire(jail: Option<&str>, words: &[&str]) -> (String, Vec<String>) {
    let own = std::env::current_exe().unwrap().display().to_string();
    let words = words.iter().map(|word| (*word).to_owned());
    match jail {
        None => (own, [vec!["wire".to_owned()], words.collect()].concat()),
        Some(jail) => {
            let before = vec![jail.to_owned(), own, "wire".to_owned()];
            ("/usr/sbin/jexec".to_owned(), [before, words.collect()].concat())
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a server of the test that goes on running")]
fn start(jail: Option<&str>, words: &[&str]) {
    let (program, args) = wire(jail, words);
    let mut child = std::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready");
    SERVERS.lock().unwrap().push((jail.map(str::to_owned), child));
}

/// Answers in a jail until it is removed.
pub(crate) fn serve(jail: Option<&str>, port: u16) {
    start(jail, &["serve", &port.to_string()]);
}

pub(crate) fn ask(from: Option<&str>, protocol: Protocol, to: SocketAddr, wait: Duration) -> Result<String, String> {
    let (program, args) = wire(from, &["ask", protocol.name(), &to.to_string(), &wait.as_millis().to_string()]);
    let output = Tool::new(program).args(args).run().map_err(|error| error.to_string())?;
    Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Sends a datagram from a jail, by a source address.
pub(crate) fn send(from: &str, source: IpAddr, to: SocketAddr) {
    let (program, args) = wire(Some(from), &["send", &source.to_string(), &to.to_string()]);
    // The kernel may know already that nothing leads there.
    let _ = Tool::new(program).args(args).run();
}

/// Opens a connection from a jail, on which something is sent a little later.
pub(crate) fn stall(from: &str, to: SocketAddr) {
    start(Some(from), &["stall", &to.to_string()]);
}

/// Cuts the way to the outside machine.
pub(crate) fn close_the_way() {
    sh(&format!("jexec {OUTSIDE_NAME} ifconfig eth0 down"));
}
