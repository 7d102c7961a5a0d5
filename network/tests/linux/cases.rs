//! The cases: each makes a world, and ends with the kernel as it was.

#![expect(clippy::unwrap_used, reason = "a test program with a main of its own is a test all the same")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use network::conformance::{self, Stage};
use network::{Network, Protocol};

use crate::world::{
    CLUSTER, NODE, OUTSIDE, Pod, World, call, call_in_vain, host_port, kernel, place, remove_place, serve, sh,
};

use Protocol::{Sctp, Tcp, Udp};

/// An attach without host ports is to take no longer: it runs no program.
const ATTACH: Duration = Duration::from_millis(30);

pub(crate) type Case = (&'static str, fn());

pub(crate) const CASES: &[Case] = &[
    ("conformance", conformance_suite),
    ("a pod reaches its gateway, another pod, the outside and the cluster", ways_out),
    ("a pod without route reaches its neighbours only", without_route),
    ("a host port answers from everywhere", host_ports),
    ("a host port of one address answers there only", host_ip),
    ("a port that a process of the node has is refused", taken_by_the_node),
    ("a host port does not take what is meant for others", no_hijack),
    ("a host port outlives the server and a dead listener is repaired", listener),
    ("a new pod on an old port gets what is sent to it", port_again),
    ("counters are as the pod sees them", counters),
    ("an attach is quick", quick),
    ("many at a time", parallel),
];

/// Runs with a world and a network; afterwards everything must be as before.
fn in_world(what: impl FnOnce(&mut World, &dyn Network)) {
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
        serve(Some("outside"), 1001);
        // The cluster knows the way back to the pods; the outside as such does not.
        sh(&format!(
            "ip -n outside route add 10.77.0.0/16 via {} src {}; ip -n outside -6 route add fd00:77::/64 via {} src {}",
            NODE[0], CLUSTER[0], NODE[1], CLUSTER[1]
        ));
        b.serve(80);
        for family in 0..2 {
            let gateway = ["10.77.0.1", "fd00:77::1"][family];
            for protocol in [Tcp, Udp] {
                let from = a.netns();
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
        serve(Some("outside"), 1001);
        b.serve(80);
        for family in 0..2 {
            let from = a.netns();
            assert_eq!(call(Some(&from), Tcp, &b.address(family), 80).as_deref(), Ok(&*a.address(family)));
            call_in_vain(Some(&from), Tcp, OUTSIDE[family], 1001);
        }
        // Even with a route that it made itself it is not translated: nothing comes back.
        sh(&format!("ip -n {} route add default via 10.77.0.1", a.netns()));
        call_in_vain(Some(&a.netns()), Tcp, OUTSIDE[0], 1001);
        a.remove(network);
        b.remove(network);
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
            // Who calls from outside is seen as such.
            assert_eq!(ask(Some("outside"), NODE[family]), OUTSIDE[family]);
            ask(None, ["127.0.0.1", "::1"][family]);
            ask(None, NODE[family]);
            ask(None, ["10.77.0.1", "fd00:77::1"][family]);
            ask(Some(&other.netns()), NODE[family]);
            ask(Some(&other.netns()), ["10.77.0.1", "fd00:77::1"][family]);
            ask(Some(&pod.netns()), NODE[family]);
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
        call_in_vain(Some("outside"), Tcp, NODE[0], 8080);
    });
}

fn host_ip() {
    in_world(|world, network| {
        sh("ip addr add 192.0.2.9/24 dev node0");
        let ports = vec![
            host_port(Tcp, Some("192.0.2.9"), 8080),
            host_port(Tcp, Some("127.0.0.1"), 8081),
            host_port(Tcp, Some("0.0.0.0"), 8082),
        ];
        let pod = world.pod(network, true, ports);
        pod.serve(80);
        let same_port = world.pod(network, true, vec![host_port(Tcp, Some(NODE[0]), 8080)]);
        same_port.serve(80);
        assert_eq!(call(Some("outside"), Tcp, "192.0.2.9", 8080).as_deref(), Ok(OUTSIDE[0]));
        call(None, Tcp, "192.0.2.9", 8080).unwrap();
        call_in_vain(None, Tcp, "127.0.0.1", 8080);
        call_in_vain(None, Tcp, "::1", 8080);
        call(None, Tcp, "127.0.0.1", 8081).unwrap();
        call_in_vain(Some("outside"), Tcp, NODE[0], 8081);
        call(None, Tcp, "127.0.0.1", 8082).unwrap();
        call(Some("outside"), Tcp, NODE[0], 8082).unwrap();
        call_in_vain(Some("outside"), Tcp, NODE[1], 8082);
        same_port.remove(network);
        call_in_vain(Some("outside"), Tcp, NODE[0], 8080);
        pod.remove(network);
        sh("ip addr del 192.0.2.9/24 dev node0");
    });
}

fn taken_by_the_node() {
    in_world(|world, network| {
        for own in ["0.0.0.0:8080", "127.0.0.1:8080", "[::1]:8080"] {
            let listener = std::net::TcpListener::bind(own).unwrap();
            let mut pod = Pod {
                wanted: network::PodNetwork {
                    id: host::PodId::random(),
                    addresses: world.ipam.allocate(&[]).unwrap(),
                    route: true,
                    host_ports: vec![host_port(Tcp, None, 8080)],
                },
                place: host::Place::Host,
            };
            pod.place = place(&pod.wanted.id);
            let refused = network.attach(&pod.wanted, &pod.place, None);
            assert!(matches!(refused, Err(network::Error::Conflict { .. })), "{own}: {refused:?}");
            network.detach(&pod.wanted.id, None).unwrap();
            drop(listener);
            network.attach(&pod.wanted, &pod.place, None).unwrap();
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
        serve(Some("outside"), 8080);
        other.serve(8080);
        for from in [&pod, &other] {
            assert_eq!(call(Some(&from.netns()), Tcp, OUTSIDE[0], 8080).as_deref(), Ok(NODE[0]));
        }
        assert_eq!(call(Some(&pod.netns()), Tcp, &other.address(0), 8080).as_deref(), Ok(&*pod.address(0)));
        other.remove(network);
        pod.remove(network);
    });
}

fn listener() {
    in_world(|world, network| {
        let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
        pod.serve(80);
        let second = world.open();
        second.attach(&pod.wanted, &pod.place, None).unwrap();
        call(None, Tcp, "127.0.0.1", 8080).unwrap();
        let pid_file = world.settings.state.join(pod.wanted.id.as_str()).join("listener.pid");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        memory(&pid);
        sh(&format!("kill -9 {pid}"));
        call_in_vain(None, Tcp, "127.0.0.1", 8080);
        sh("nft flush ruleset");
        assert!(second.needs().iter().any(|need| !need.holds()), "a flushed ruleset was not seen");
        second.configure(&world.networks).unwrap();
        call(None, Tcp, "127.0.0.1", 8080).unwrap();
        call(Some("outside"), Tcp, NODE[0], 8080).unwrap();
        assert!(second.needs().iter().all(host::Need::holds));
        pod.remove(&*second);
        drop(second);
        network.detach(&pod.wanted.id, None).unwrap();
    });
}

/// Prints what a listener costs.
fn memory(pid: &str) {
    let rollup = sh(&format!("cat /proc/{pid}/smaps_rollup"));
    let kilobytes = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let private = kilobytes("Private_Clean:") + kilobytes("Private_Dirty:");
    println!("network on linux: a listener has {private} kB private, {} kB anonymous", kilobytes("Anonymous:"));
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
        let before = network.counters(&pod.wanted.id).unwrap();
        // Datagrams of 1,000 bytes to the pod, which answers rarely: nobody listens there. The first ones may be lost until
        // the pod's MAC is known.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            for _ in 0..20 {
                let _ = socket.send_to(&[0; 1000], (pod.address(0), 9));
            }
            let after = network.counters(&pod.wanted.id).unwrap();
            let (rx, tx) = (after.rx_bytes - before.rx_bytes, after.tx_bytes - before.tx_bytes);
            if rx > 200_000 {
                assert!(tx < rx / 2, "{rx} received, {tx} sent");
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
            let id = host::PodId::random();
            let wanted = network::PodNetwork {
                id,
                addresses: world.ipam.allocate(&[]).unwrap(),
                route: true,
                host_ports: vec![],
            };
            let place = place(&wanted.id);
            let started = Instant::now();
            network.attach(&wanted, &place, None).unwrap();
            let attached = started.elapsed();
            network.detach(&wanted.id, Some(&place)).unwrap();
            times.push((attached, started.elapsed() - attached));
            remove_place(&wanted.id);
        }
        times.sort();
        println!("network on linux: attach and detach took {times:?}");
        assert!(times[times.len() / 2].0 < ATTACH);
        let started = Instant::now();
        let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
        println!("network on linux: with a namespace and a host port {:?}", started.elapsed());
        pod.remove(network);
    });
}

fn parallel() {
    in_world(|world, network| {
        let wanted: Vec<_> = (0..12)
            .map(|index| network::PodNetwork {
                id: host::PodId::random(),
                addresses: world.ipam.allocate(&[]).unwrap(),
                route: true,
                host_ports: vec![host_port(Tcp, None, 9000 + index)],
            })
            .collect();
        std::thread::scope(|scope| {
            for pod in &wanted {
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
