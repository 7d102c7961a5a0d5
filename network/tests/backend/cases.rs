//! The cases. Each creates its environment and leaves the kernel unchanged.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use network::conformance::{self, Stage};
use network::{Lent, Network, NetworkSpec, Protocol};

use crate::platform::{self, OUTSIDE_NAME, kernel, place, remove_place, serve};
use crate::world::{CLUSTER, GATEWAY, NODE, OUTSIDE, Pod, World, call, call_in_vain, host_port, sh};
use crate::{firewall, repair, spoofing};

use Protocol::{Sctp, Tcp, Udp};

pub(crate) type Case = (&'static str, fn());

pub(crate) const CASES: &[Case] = &[
    ("conformance", conformance_suite),
    ("a pod reaches its gateway, another pod, the outside and the cluster", ways_out),
    ("a pod without route reaches its neighbours only", without_route),
    ("a pod that keeps its address is known by it outside", untranslated),
    ("an interface of the node is lent and comes back", lent),
    ("a pod sends from its own addresses only", spoofing::forged_sources),
    ("a pod cannot take the gateway's or a neighbour's address", spoofing::claimed_addresses),
    ("a firewall lets in what is declared", firewall::declared_ports),
    ("an isolated pod is reached by nobody", firewall::isolated),
    ("a host port answers from everywhere", host_ports),
    ("a host port of one address answers there only", host_ip),
    ("a port that a process of the node has is refused", taken_by_the_node),
    ("a host port does not take what is meant for others", no_hijack),
    ("a host port outlives the server and a dead listener is repaired", listener),
    ("what an administrator breaks is restored", repair::restored),
    ("a pod that is removed meanwhile is not restored", repair::removed_meanwhile),
    ("a listener without its files ends with its pod", repair::listener_without_files),
    ("a change of the network is told", repair::told),
    ("a new pod on an old port gets what is sent to it", port_again),
    ("counters are as the pod sees them", counters),
    ("an attach is quick", quick),
    ("many at a time", parallel),
    ("a spare that became a pod is reached", spare),
    ("a connection that stalls keeps nothing", stalled),
];

/// Runs a case and asserts that the kernel is unchanged.
pub(crate) fn in_world(what: impl FnOnce(&mut World, &dyn Network)) {
    let mut world = World::new();
    let before = kernel();
    let network = world.open();
    what(&mut world, &*network);
    assert_eq!(network.inventory().unwrap(), []);
    network.unconfigure().unwrap_or_else(|error| panic!("{}", host::chain(&error)));
    let after = kernel();
    assert!(before == after, "before:\n{before}\nafter:\n{after}");
    let left = std::fs::read_dir(&world.settings.state).unwrap().count();
    assert_eq!(left, 0, "files are left in the state directory");
}

fn conformance_suite() {
    let world = World::new();
    let before = kernel();
    conformance::run(&Stage {
        open: &|| network::open(world.settings.clone()).unwrap(),
        place: &place,
        remove_place: &remove_place,
        networks: world.networks.clone(),
        first_port: 30_000,
    });
    assert_eq!(kernel(), before);
}

fn ways_out() {
    in_world(|world, network| {
        let (a, b) = (world.pod(network, true, vec![]), world.pod(network, true, vec![]));
        serve(None, 1000);
        serve(Some(OUTSIDE_NAME), 1001);
        // Only the cluster has a route back to the pods.
        platform::cluster_knows_the_pods();
        b.serve(80);
        for family in 0..2 {
            let gateway = GATEWAY[family];
            for protocol in [Tcp, Udp] {
                let from = a.inside();
                let ask = |to: &str, port| call(Some(&from), protocol, to, port);
                assert_eq!(ask(gateway, 1000).as_deref(), Ok(&*a.address(family)));
                assert_eq!(ask(&b.address(family), 80).as_deref(), Ok(&*a.address(family)));
                assert_eq!(ask(OUTSIDE[family], 1001).as_deref(), Ok(NODE[family]), "not translated");
                if protocol == Tcp {
                    assert_eq!(ask(CLUSTER[family], 1001).as_deref(), Ok(&*a.address(family)), "translated");
                }
                assert_eq!(call(None, protocol, &b.address(family), 80).as_deref(), Ok(gateway));
            }
        }
        a.remove(network);
        b.remove(network);
    });
}

fn without_route() {
    in_world(|world, network| {
        let (a, b) = (world.pod(network, false, vec![]), world.pod(network, true, vec![]));
        serve(Some(OUTSIDE_NAME), 1001);
        b.serve(80);
        for (family, outside) in OUTSIDE.iter().enumerate() {
            let from = a.inside();
            assert_eq!(call(Some(&from), Tcp, &b.address(family), 80).as_deref(), Ok(&*a.address(family)));
            call_in_vain(Some(&from), Tcp, outside, 1001);
        }
        // Its traffic is not translated even with a route that it added itself.
        platform::add_default_route(&a.inside(), GATEWAY[0]);
        call_in_vain(Some(&a.inside()), Tcp, OUTSIDE[0], 1001);
        a.remove(network);
        b.remove(network);
    });
}

fn untranslated() {
    in_world(|world, network| {
        let pod = world.pod(network, true, vec![]);
        serve(Some(OUTSIDE_NAME), 1001);
        platform::cluster_knows_the_pods();
        for keeps_source in [true, false] {
            let spec = NetworkSpec { keeps_source, ..pod.spec.clone() };
            network.attach(&spec, &pod.place, None).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
            for (family, outside) in OUTSIDE.iter().enumerate() {
                let seen = call(Some(&pod.inside()), Tcp, outside, 1001);
                let own = pod.address(family);
                assert_eq!(seen.as_deref(), Ok(if keeps_source { &*own } else { NODE[family] }));
            }
        }
        pod.remove(network);
    });
}

fn lent() {
    in_world(|world, network| {
        let (name, peer) = ("lent0", "lent1");
        platform::add_lendable(name, peer, "203.0.113.1");
        let lent = Some(Lent { name: name.to_owned(), addresses: vec!["203.0.113.5/24".parse().unwrap()] });
        let (pod, other) = (world.pod(network, true, vec![]), world.pod(network, true, vec![]));
        pod.serve(80);
        let spec = NetworkSpec { lent: lent.clone(), ..pod.spec.clone() };
        for _ in 0..2 {
            network.attach(&spec, &pod.place, None).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        }
        assert_eq!(call(None, Tcp, "203.0.113.5", 80).as_deref(), Ok("203.0.113.1"));
        let error = network.attach(&NetworkSpec { lent, ..other.spec.clone() }, &other.place, None).unwrap_err();
        assert!(matches!(&error, network::Error::Conflict { what } if what.contains(pod.spec.id.as_str())), "{error}");
        let missing = Some(Lent { name: "lent2".to_owned(), addresses: vec![] });
        let error = network.attach(&NetworkSpec { lent: missing, ..other.spec.clone() }, &other.place, None);
        assert!(matches!(error, Err(network::Error::NotFound { .. })), "{error:?}");
        other.remove(network);
        network.detach(&pod.spec.id, Some(&pod.place)).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
        assert!(kernel().contains(name), "it did not come back");
        platform::remove_place(&pod.spec.id);
        platform::remove_lendable(peer);
    });
}

/// Calls a host port from the five places.
fn call_everywhere(pod: &Pod, other: &Pod, port: u16) {
    for family in 0..2 {
        for protocol in [Tcp, Udp] {
            let ask = |from: Option<&str>, to: &str| {
                let answer = call(from, protocol, to, port);
                answer.unwrap_or_else(|error| panic!("{protocol:?} {to} port {port} from {from:?}: {error}"))
            };
            // The pod sees the address of an outside caller.
            assert_eq!(ask(Some(OUTSIDE_NAME), NODE[family]), OUTSIDE[family]);
            ask(None, ["127.0.0.1", "::1"][family]);
            ask(None, NODE[family]);
            ask(None, GATEWAY[family]);
            ask(Some(&other.inside()), NODE[family]);
            ask(Some(&other.inside()), GATEWAY[family]);
            ask(Some(&pod.inside()), NODE[family]);
        }
    }
}

fn host_ports() {
    in_world(|world, network| {
        let ports = vec![host_port(Tcp, None, 8080), host_port(Udp, None, 8080), host_port(Sctp, None, 8080)];
        let (pod, other) = (world.pod(network, true, ports), world.pod(network, true, vec![]));
        pod.serve(80);
        call_everywhere(&pod, &other, 8080);
        other.remove(network);
        pod.remove(network);
        call_in_vain(None, Tcp, "127.0.0.1", 8080);
        call_in_vain(Some(OUTSIDE_NAME), Tcp, NODE[0], 8080);
    });
}

fn host_ip() {
    in_world(|world, network| {
        platform::add_node_address("192.0.2.9");
        let ports = vec![
            host_port(Tcp, Some("192.0.2.9"), 8080),
            host_port(Tcp, Some("127.0.0.1"), 8081),
            host_port(Tcp, Some("0.0.0.0"), 8082),
        ];
        let pod = world.pod(network, true, ports);
        pod.serve(80);
        let same_port = world.pod(network, true, vec![host_port(Tcp, Some(NODE[0]), 8080)]);
        same_port.serve(80);
        assert_eq!(call(Some(OUTSIDE_NAME), Tcp, "192.0.2.9", 8080).as_deref(), Ok(OUTSIDE[0]));
        call(None, Tcp, "192.0.2.9", 8080).unwrap();
        call_in_vain(None, Tcp, "127.0.0.1", 8080);
        call_in_vain(None, Tcp, "::1", 8080);
        call(None, Tcp, "127.0.0.1", 8081).unwrap();
        call_in_vain(Some(OUTSIDE_NAME), Tcp, NODE[0], 8081);
        call(None, Tcp, "127.0.0.1", 8082).unwrap();
        call(Some(OUTSIDE_NAME), Tcp, NODE[0], 8082).unwrap();
        call_in_vain(Some(OUTSIDE_NAME), Tcp, NODE[1], 8082);
        same_port.remove(network);
        call_in_vain(Some(OUTSIDE_NAME), Tcp, NODE[0], 8080);
        pod.remove(network);
        platform::remove_node_address("192.0.2.9");
    });
}

fn taken_by_the_node() {
    in_world(|world, network| {
        for own in ["0.0.0.0:8080", "127.0.0.1:8080", "[::1]:8080"] {
            let listener = std::net::TcpListener::bind(own).unwrap();
            let spec = world.spec(true, vec![host_port(Tcp, None, 8080)]);
            let pod = Pod { place: place(&spec.id), spec };
            let refused = network.attach(&pod.spec, &pod.place, None);
            assert!(matches!(refused, Err(network::Error::Conflict { .. })), "{own}: {refused:?}");
            network.detach(&pod.spec.id, None).unwrap();
            drop(listener);
            network.attach(&pod.spec, &pod.place, None).unwrap();
            pod.remove(network);
        }
    });
}

fn no_hijack() {
    in_world(|world, network| {
        let (pod, other) =
            (world.pod(network, true, vec![host_port(Tcp, None, 8080)]), world.pod(network, true, vec![]));
        pod.serve(80);
        // The same port on another machine, and on another pod.
        serve(Some(OUTSIDE_NAME), 8080);
        other.serve(8080);
        for from in [&pod, &other] {
            assert_eq!(call(Some(&from.inside()), Tcp, OUTSIDE[0], 8080).as_deref(), Ok(NODE[0]));
        }
        assert_eq!(call(Some(&pod.inside()), Tcp, &other.address(0), 8080).as_deref(), Ok(&*pod.address(0)));
        other.remove(network);
        pod.remove(network);
    });
}

fn listener() {
    in_world(|world, network| {
        let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
        pod.serve(80);
        let second = world.open();
        second.attach(&pod.spec, &pod.place, None).unwrap();
        call(None, Tcp, "127.0.0.1", 8080).unwrap();
        let pid_file = world.settings.state.join(pod.spec.id.as_str()).join("listener.pid");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        println!("network: a listener has {}", platform::memory(&pid));
        sh(&format!("kill -9 {pid}"));
        call_in_vain(None, Tcp, "127.0.0.1", 8080);
        platform::flush_rules();
        second.configure(&world.networks).unwrap();
        call(None, Tcp, "127.0.0.1", 8080).unwrap();
        call(Some(OUTSIDE_NAME), Tcp, NODE[0], 8080).unwrap();
        // An advisory need (the sizes of pf's tables) may be unmet.
        let unmet: Vec<_> = second.needs().into_iter().filter(|need| need.required && !need.holds()).collect();
        assert_eq!(unmet, []);
        pod.remove(&*second);
        drop(second);
        network.detach(&pod.spec.id, None).unwrap();
    });
}

fn port_again() {
    in_world(|world, network| {
        let client = UdpSocket::bind((NODE[0], 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect((NODE[0], 8080)).unwrap();
        for _ in 0..2 {
            let pod = world.pod(network, true, vec![host_port(Udp, None, 8080)]);
            pod.serve(80);
            client.send(b"?").unwrap();
            client.recv(&mut [0; 100]).unwrap();
            pod.remove(network);
        }
    });
}

fn counters() {
    in_world(|world, network| {
        let pod = world.pod(network, true, vec![]);
        let before = network.counters(&pod.spec.id).unwrap();
        // Datagrams of 1,000 bytes to the pod, which answers rarely: nobody listens there. The first ones may be lost until
        // the pod's MAC is known.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            for _ in 0..20 {
                let _ = socket.send_to(&[0; 1000], (pod.address(0), 9));
            }
            let after = network.counters(&pod.spec.id).unwrap();
            let (rx, tx) = (after.rx_bytes - before.rx_bytes, after.tx_bytes - before.tx_bytes);
            if rx > 200_000 {
                assert!(tx < rx, "{rx} received, {tx} sent");
                break;
            }
            assert!(Instant::now() < deadline, "only {rx} bytes were counted");
            std::thread::sleep(Duration::from_millis(10));
        }
        pod.remove(network);
    });
}

fn quick() {
    in_world(|world, network| {
        let mut times = Vec::new();
        for _ in 0..5 {
            let spec = world.spec(true, vec![]);
            let place = place(&spec.id);
            let started = Instant::now();
            network.attach(&spec, &place, None).unwrap();
            let attached = started.elapsed();
            network.detach(&spec.id, Some(&place)).unwrap();
            times.push((attached, started.elapsed() - attached));
            remove_place(&spec.id);
        }
        times.sort();
        println!("network: attach and detach took {times:?}");
        // The fastest one: others may have waited for a machine that is busy with something else.
        assert!(times[0].0 < platform::ATTACH);
        let started = Instant::now();
        let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
        println!("network: with a namespace and a host port {:?}", started.elapsed());
        pod.remove(network);
    });
}

fn parallel() {
    in_world(|world, network| {
        let specs: Vec<_> = (0..12).map(|index| world.spec(true, vec![host_port(Tcp, None, 9000 + index)])).collect();
        std::thread::scope(|scope| {
            for pod in &specs {
                scope.spawn(move || {
                    let place = place(&pod.id);
                    network.attach(pod, &place, None).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
                    network.detach(&pod.id, Some(&place)).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
                    remove_place(&pod.id);
                });
            }
        });
    });
}

fn spare() {
    in_world(spare_in);
}

fn spare_in(world: &mut World, network: &dyn Network) {
    let id = host::PodId::random();
    let place = place(&id);
    network.prepare(&id, &place).unwrap();
    let spec = world.spec(true, vec![host_port(Tcp, None, 8080)]);
    network.attach(&spec, &place, Some(&id)).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
    serve(Some(&platform::name(&id)), 80);
    serve(Some(OUTSIDE_NAME), 1001);
    for family in 0..2 {
        let from = platform::name(&id);
        assert_eq!(call(Some(&from), Tcp, OUTSIDE[family], 1001).as_deref(), Ok(NODE[family]));
        call(Some(OUTSIDE_NAME), Tcp, NODE[family], 8080).unwrap();
    }
    network.detach(&spec.id, Some(&place)).unwrap();
    remove_place(&id);
}

fn stalled() {
    in_world(stalled_in);
}

fn stalled_in(world: &mut World, network: &dyn Network) {
    let pod = world.pod(network, true, vec![]);
    serve(Some(OUTSIDE_NAME), 1001);
    // What it sends is never acknowledged: the way there is closed before.
    platform::stall(&pod.inside(), SocketAddr::new(OUTSIDE[0].parse().unwrap(), 1001));
    platform::close_the_way();
    std::thread::sleep(Duration::from_secs(1));
    pod.remove(network);
    platform::wait_until_gone(&pod.spec.id);
}
