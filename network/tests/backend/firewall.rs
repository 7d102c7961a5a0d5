//! What a pod's firewall lets in: from another pod, from the node, from outside by a host port, in both families.

use std::net::UdpSocket;
use std::time::Duration;

use network::Protocol::{Tcp, Udp};
use network::{Firewall, HostPort, Network, NetworkSpec};

use crate::cases::in_world;
use crate::platform::{OUTSIDE_NAME, place, serve};
use crate::world::{GATEWAY, NODE, OUTSIDE, Pod, World, call, call_in_vain, host_port};

/// How long an answer may take, and how long none is waited for.
const ARRIVAL: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(600);

/// Attaches a pod that serves on ports 80 and 81, or gives one another spec.
fn attach(network: &dyn Network, spec: NetworkSpec, pod: Option<Pod>) -> Pod {
    let known = pod.map(|pod| pod.place);
    let place = known.clone().unwrap_or_else(|| place(&spec.id));
    network.attach(&spec, &place, None).unwrap_or_else(|error| panic!("{}", host::chain(&error)));
    let pod = Pod { spec, place };
    if known.is_none() {
        pod.serve(80);
        pod.serve(81);
    }
    pod
}

fn specs(world: &mut World) -> [NetworkSpec; 2] {
    [world.spec(true, vec![]), world.spec(true, vec![])]
}

/// What a pod asks for itself comes in, whatever its firewall.
fn asks_for_itself(pod: &Pod, other: &Pod) {
    let from = pod.inside();
    for (family, outside) in OUTSIDE.iter().enumerate() {
        for protocol in [Tcp, Udp] {
            assert_eq!(call(Some(&from), protocol, &other.address(family), 80).as_deref(), Ok(&*pod.address(family)));
            assert_eq!(call(Some(&from), protocol, outside, 1001).as_deref(), Ok(NODE[family]));
        }
    }
}

pub(crate) fn declared_ports() {
    in_world(|world, network| {
        serve(Some(OUTSIDE_NAME), 1001);
        let [mut closed, open] = specs(world);
        closed.firewall = Firewall::Ports(vec![(Tcp, 80)]);
        // Of what comes by host ports, too, only the declared one.
        closed.host_ports = vec![
            host_port(Tcp, None, 8080),
            HostPort { protocol: Tcp, host_ip: None, host_port: 8081, container_port: 81 },
        ];
        let (pod, other) = (attach(network, closed, None), attach(network, open, None));
        asks_for_itself(&pod, &other);
        let from_pod = other.inside();
        for family in 0..2 {
            let address = pod.address(family);
            for from in [None, Some(&*from_pod)] {
                call(from, Tcp, &address, 80).unwrap_or_else(|error| panic!("{from:?}: {error}"));
                call_in_vain(from, Tcp, &address, 81);
                call_in_vain(from, Udp, &address, 80);
            }
            assert_eq!(call(Some(OUTSIDE_NAME), Tcp, NODE[family], 8080).as_deref(), Ok(OUTSIDE[family]));
            call_in_vain(Some(OUTSIDE_NAME), Tcp, NODE[family], 8081);
        }
        pod.remove(network);
        other.remove(network);
    });
}

pub(crate) fn isolated() {
    in_world(|world, network| {
        serve(Some(OUTSIDE_NAME), 1001);
        let [was_open, open] = specs(world);
        let (pod, other) = (attach(network, was_open, None), attach(network, open, None));
        // A conversation that began before: its state must not outlive the change.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((pod.address(0).parse::<std::net::IpAddr>().unwrap(), 80)).unwrap();
        let answers = |wait| {
            socket.set_read_timeout(Some(wait)).unwrap();
            // A filter of the node may refuse to send (Linux: EPERM).
            socket.send(b"?").is_ok() && socket.recv(&mut [0; 100]).is_ok()
        };
        assert!(answers(ARRIVAL));
        let spec = NetworkSpec { firewall: Firewall::Isolated, ..pod.spec.clone() };
        let pod = attach(network, spec, Some(pod));
        assert!(!answers(SILENCE), "its state still lets it in");
        asks_for_itself(&pod, &other);
        // The node's name server, on the gateways.
        serve(None, 1005);
        for (family, gateway) in GATEWAY.iter().enumerate() {
            for protocol in [Tcp, Udp] {
                let heard = call(Some(&pod.inside()), protocol, gateway, 1005);
                assert_eq!(heard.as_deref(), Ok(&*pod.address(family)));
            }
        }
        let from_pod = other.inside();
        for family in 0..2 {
            for (from, protocol) in [(None, Tcp), (None, Udp), (Some(&*from_pod), Tcp), (Some(&*from_pod), Udp)] {
                call_in_vain(from, protocol, &pod.address(family), 80);
            }
        }
        let spec = NetworkSpec { firewall: Firewall::Open, ..pod.spec.clone() };
        let pod = attach(network, spec, Some(pod));
        assert!(call(None, Tcp, &pod.address(0), 80).is_ok());
        pod.remove(network);
        other.remove(network);
    });
}
