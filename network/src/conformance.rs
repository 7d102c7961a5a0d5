//! The conformance suite of every backend: on the fake in every test run, on Linux and FreeBSD as root. It uses only
//! the boundary; the backends' own tests send packets. A case panics when the backend is wrong and cleans up when it is
//! right.

use std::sync::Arc;

use host::{Place, PodId};
use ipnetwork::IpNetwork;

use crate::{Error, HostPort, Network, NetworkSpec, Protocol, ipam::Ipam};

/// The backend under test.
pub struct Stage<'a> {
    /// Opens the backend; each call simulates a restarted server on the same kernel.
    pub open: &'a dyn Fn() -> Arc<dyn Network>,
    /// Creates an empty place for a pod.
    pub place: &'a dyn Fn(&PodId) -> Place,
    /// Removes the place with its network.
    pub remove_place: &'a dyn Fn(&PodId),
    /// Unused pod networks: at most one of each family, with room for ten pods.
    pub networks: Vec<IpNetwork>,
    /// The first of ten free host ports.
    pub first_port: u16,
}

/// A case: the required behaviour and the function that checks it.
pub type Case = (&'static str, fn(&Stage));

/// The suite, in order of execution.
pub const CASES: &[Case] = &[
    ("networks that cannot hold pods are refused", bad_networks),
    ("configure and unconfigure may be repeated", configure_twice),
    ("a pod is attached, seen, counted and detached", attach_and_detach),
    ("attach and detach are idempotent", repeated),
    ("a pod without route is attached", without_route),
    ("a host port has one pod", port_conflict),
    ("a port is free again when its pod is gone", port_released),
    ("a pod on the host's network has only ports", on_the_host),
    ("a spare becomes a pod", spare),
    ("a spare that is not used is removed", spare_unused),
    ("a server started anew finds everything", restart),
    ("a pod whose place is gone is detached", place_gone),
    ("an attached pod is whole, and there is nothing to restore", whole),
    ("pods of former networks keep working", networks_change),
    ("the bridge stays while there are pods", unconfigure_refused),
];

/// Runs every case.
///
/// # Panics
/// The backend violates a case.
pub fn run(stage: &Stage) {
    for (name, case) in CASES {
        tracing::info!(name, "conformance");
        let network = (stage.open)();
        network.configure(&stage.networks).unwrap_or_else(|error| panic!("{name}: {}", host::chain(&error)));
        case(stage);
        let network = (stage.open)();
        assert_eq!(inventory(&*network), [], "{name}: a pod is left");
        network.unconfigure().unwrap_or_else(|error| panic!("{name}: {}", host::chain(&error)));
    }
}

/// Panics with the operation, the error and its causes.
fn ok<T>(what: &str, result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {}", host::chain(&error)))
}

fn inventory(network: &dyn Network) -> Vec<PodId> {
    ok("inventory", network.inventory())
}

fn spec(stage: &Stage, ipam: &mut Ipam, host_ports: Vec<HostPort>) -> NetworkSpec {
    assert!(!stage.networks.is_empty());
    NetworkSpec {
        id: PodId::random(),
        addresses: ok("allocate", ipam.allocate(&[])),
        route: true,
        keeps_source: false,
        lent: None,
        host_ports,
        firewall: crate::Firewall::Open,
    }
}

fn addresses(stage: &Stage) -> Ipam {
    ok("pod networks", Ipam::new(&stage.networks))
}

fn port(stage: &Stage, offset: u16) -> HostPort {
    HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: stage.first_port + offset, container_port: 80 }
}

fn bad_networks(stage: &Stage) {
    let network = (stage.open)();
    for bad in [&[][..], &["10.1.0.0/31"], &["10.1.0.0/16", "10.1.4.0/24"]] {
        let networks: Vec<IpNetwork> = bad.iter().map(|text| text.parse().expect("it is a network")).collect();
        assert!(matches!(network.configure(&networks), Err(Error::Invalid { .. })), "{bad:?} was not refused");
    }
}

fn configure_twice(stage: &Stage) {
    let network = (stage.open)();
    ok("configure twice", network.configure(&stage.networks));
    ok("unconfigure", network.unconfigure());
    ok("unconfigure twice", network.unconfigure());
    ok("configure again", network.configure(&stage.networks));
}

fn attach_and_detach(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let pod = spec(stage, &mut ipam, vec![port(stage, 0)]);
    let place = (stage.place)(&pod.id);
    let attachment = ok("attach", network.attach(&pod, &place, None));
    let expected: Vec<_> = pod.addresses.iter().map(IpNetwork::ip).collect();
    assert_eq!(attachment.addresses, expected);
    assert!(attachment.host_interface.is_some_and(|name| name.contains(pod.id.short())));
    assert_eq!(inventory(&*network), std::slice::from_ref(&pod.id));
    assert_eq!(ok("counters", network.counters(&pod.id)).interface, "eth0");
    assert_eq!(ok("all counters", network.all_counters())[&pod.id].interface, "eth0");
    ok("detach", network.detach(&pod.id, Some(&place)));
    assert!(matches!(network.counters(&pod.id), Err(Error::NotFound { .. })), "counters of a pod that is gone");
    assert!(!ok("all counters", network.all_counters()).contains_key(&pod.id), "counters of a pod that is gone");
    (stage.remove_place)(&pod.id);
}

fn repeated(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let pod = spec(stage, &mut ipam, vec![port(stage, 0)]);
    let place = (stage.place)(&pod.id);
    let first = ok("attach", network.attach(&pod, &place, None));
    let second = ok("attach twice", network.attach(&pod, &place, None));
    assert_eq!(first, second);
    assert_eq!(inventory(&*network), std::slice::from_ref(&pod.id));
    ok("detach", network.detach(&pod.id, Some(&place)));
    ok("detach twice", network.detach(&pod.id, Some(&place)));
    ok("detach of a pod that never was", network.detach(&PodId::random(), None));
    (stage.remove_place)(&pod.id);
}

fn without_route(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let pod = NetworkSpec { route: false, ..spec(stage, &mut ipam, Vec::new()) };
    let place = (stage.place)(&pod.id);
    ok("attach", network.attach(&pod, &place, None));
    ok("attach twice", network.attach(&pod, &place, None));
    ok("detach", network.detach(&pod.id, Some(&place)));
    (stage.remove_place)(&pod.id);
}

fn port_conflict(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let first = spec(stage, &mut ipam, vec![port(stage, 1)]);
    let second = spec(stage, &mut ipam, vec![port(stage, 2), port(stage, 1)]);
    let (place, other) = ((stage.place)(&first.id), (stage.place)(&second.id));
    ok("attach", network.attach(&first, &place, None));
    match (stage.open)().attach(&second, &other, None) {
        Err(Error::Conflict { what }) => assert!(what.contains(first.id.as_str()), "the pod is not named: {what}"),
        other => panic!("a port that is taken was given out: {other:?}"),
    }
    for pod in [&second, &first] {
        ok("detach", network.detach(&pod.id, None));
        (stage.remove_place)(&pod.id);
    }
}

fn port_released(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    for _ in 0..2 {
        let pod = spec(stage, &mut ipam, vec![port(stage, 3)]);
        let place = (stage.place)(&pod.id);
        ok("attach", network.attach(&pod, &place, None));
        ok("detach", network.detach(&pod.id, Some(&place)));
        (stage.remove_place)(&pod.id);
    }
}

fn on_the_host(stage: &Stage) {
    let network = (stage.open)();
    let pod = NetworkSpec {
        id: PodId::random(),
        addresses: Vec::new(),
        route: true,
        keeps_source: false,
        lent: None,
        host_ports: vec![port(stage, 4)],
        firewall: crate::Firewall::Open,
    };
    let attachment = ok("attach", network.attach(&pod, &Place::Host, None));
    assert!(attachment.host_interface.is_none() && attachment.addresses.is_empty());
    assert!(matches!(network.counters(&pod.id), Err(Error::NotFound { .. })));
    let other = NetworkSpec { id: PodId::random(), ..pod.clone() };
    assert!(matches!(network.attach(&other, &Place::Host, None), Err(Error::Conflict { .. })));
    ok("detach", network.detach(&other.id, None));
    ok("detach", network.detach(&pod.id, Some(&Place::Host)));
}

fn spare(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let spare = PodId::random();
    let place = (stage.place)(&spare);
    ok("prepare", network.prepare(&spare, &place));
    ok("prepare twice", network.prepare(&spare, &place));
    assert_eq!(inventory(&*network), std::slice::from_ref(&spare));
    let pod = spec(stage, &mut ipam, Vec::new());
    let first = ok("attach a spare", network.attach(&pod, &place, Some(&spare)));
    assert_eq!(inventory(&*network), std::slice::from_ref(&pod.id));
    let second = ok("attach a spare twice", network.attach(&pod, &place, Some(&spare)));
    assert_eq!(first, second);
    ok("counters", network.counters(&pod.id));
    ok("detach", network.detach(&pod.id, Some(&place)));
    (stage.remove_place)(&spare);
}

fn spare_unused(stage: &Stage) {
    let network = (stage.open)();
    let spare = PodId::random();
    let place = (stage.place)(&spare);
    ok("prepare", network.prepare(&spare, &place));
    ok("detach", (stage.open)().detach(&spare, Some(&place)));
    assert_eq!(inventory(&*network), []);
    (stage.remove_place)(&spare);
}

fn restart(stage: &Stage) {
    let mut ipam = addresses(stage);
    let pod = spec(stage, &mut ipam, vec![port(stage, 5)]);
    let place = (stage.place)(&pod.id);
    let before = ok("attach", (stage.open)().attach(&pod, &place, None));
    let network = (stage.open)();
    ok("configure", network.configure(&stage.networks));
    assert_eq!(inventory(&*network), std::slice::from_ref(&pod.id));
    assert_eq!(ok("attach again", network.attach(&pod, &place, None)), before);
    ok("detach", (stage.open)().detach(&pod.id, None));
    (stage.remove_place)(&pod.id);
}

fn whole(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    ok("configure", network.configure(&stage.networks));
    let pod = spec(stage, &mut ipam, vec![port(stage, 7)]);
    let place = (stage.place)(&pod.id);
    ok("attach", network.attach(&pod, &place, None));
    assert_eq!(ok("whole pods", network.whole_pods()), [pod.id.clone()].into());
    assert_eq!(ok("reconcile", network.reconcile(std::slice::from_ref(&pod.id))), [""; 0]);
    ok("changes", network.changes());
    ok("detach", network.detach(&pod.id, None));
    assert_eq!(ok("whole pods", network.whole_pods()), [].into());
    (stage.remove_place)(&pod.id);
}

fn place_gone(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let pod = spec(stage, &mut ipam, vec![port(stage, 6)]);
    let place = (stage.place)(&pod.id);
    ok("attach", network.attach(&pod, &place, None));
    (stage.remove_place)(&pod.id);
    ok("detach", network.detach(&pod.id, Some(&place)));
}

fn networks_change(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let pod = spec(stage, &mut ipam, Vec::new());
    let place = (stage.place)(&pod.id);
    ok("attach", network.attach(&pod, &place, None));
    ok("configure another", network.configure(&["10.253.77.0/28".parse().expect("it is a network")]));
    assert_eq!(inventory(&*network), std::slice::from_ref(&pod.id));
    ok("counters", network.counters(&pod.id));
    ok("detach", network.detach(&pod.id, Some(&place)));
    (stage.remove_place)(&pod.id);
}

fn unconfigure_refused(stage: &Stage) {
    let (network, mut ipam) = ((stage.open)(), addresses(stage));
    let pod = spec(stage, &mut ipam, Vec::new());
    let place = (stage.place)(&pod.id);
    ok("attach", network.attach(&pod, &place, None));
    assert!(matches!(network.unconfigure(), Err(Error::Conflict { .. })), "the bridge went with a pod on it");
    ok("detach", network.detach(&pod.id, Some(&place)));
    (stage.remove_place)(&pod.id);
}
