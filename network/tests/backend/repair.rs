//! What an administrator, or another program, does to the network of a node that runs.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use network::Network;
use network::Protocol::Tcp;

use crate::cases::in_world;
use crate::platform::{self, OUTSIDE_NAME, serve};
use crate::world::{GATEWAY, NODE, OUTSIDE, Pod, World, call, host_port, sh};

/// Within this time a subscriber is told.
const NEWS: Duration = Duration::from_secs(5);

/// Whether all that is shared is there, as Status tells it.
fn holds(network: &dyn Network) -> bool {
    network.needs().iter().all(|need| need.name != "the node's network" || need.holds())
}

pub(crate) fn restored() {
    in_world(|world, network| {
        let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
        pod.serve(80);
        serve(Some(OUTSIDE_NAME), 1001);
        for (what, script) in platform::damages(&pod.inside()) {
            sh(&script);
            restore(world, network, &pod, what);
        }
        // A pod that is made now has what those have that were there.
        let late = world.pod(network, true, vec![]);
        for outside in OUTSIDE {
            assert!(call(Some(&late.inside()), Tcp, outside, 1001).is_ok(), "a late pod and {outside}");
        }
        late.remove(network);
        // The interface itself cannot be restored: the pod is not whole.
        assert!(network.whole_pods().unwrap().contains(&pod.spec.id));
        sh(&platform::destroy(&pod.inside()));
        assert!(!network.whole_pods().unwrap().contains(&pod.spec.id));
        network.reconcile(std::slice::from_ref(&pod.spec.id)).unwrap();
        pod.remove(network);
    });
}

pub(crate) fn removed_meanwhile() {
    in_world(|world, network| {
        for _ in 0..10 {
            let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
            let (pods, removed) = ([pod.spec.id.clone()], AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !removed.load(Ordering::Relaxed) {
                        // It may find a pod that is half removed.
                        let _ = network.reconcile(&pods);
                    }
                });
                pod.remove(network);
                removed.store(true, Ordering::Relaxed);
            });
            assert!(TcpStream::connect(("127.0.0.1", 8080)).is_err(), "a listener without a pod");
            assert_eq!(network.inventory().unwrap(), []);
        }
    });
}

pub(crate) fn listener_without_files() {
    in_world(|world, network| {
        let pod = world.pod(network, true, vec![host_port(Tcp, None, 8080)]);
        sh(&format!("rm {}/{}/listener.*", world.settings.state.display(), pod.spec.id));
        pod.remove(network);
        assert!(TcpStream::connect(("127.0.0.1", 8080)).is_err(), "a listener without a pod");
    });
}

fn restore(world: &World, network: &dyn Network, pod: &Pod, what: &str) {
    let shared = !what.starts_with("a pod's");
    assert_eq!(holds(network), !shared, "{what}: {:?}", network.needs());
    let pods = std::slice::from_ref(&pod.spec.id);
    let restored = network.reconcile(pods).unwrap_or_else(|error| panic!("{what}: {}", host::chain(&error)));
    println!("network: {what}: restored {restored:?}");
    assert!(!restored.is_empty() && holds(network), "{what}");
    assert_eq!(network.reconcile(pods).unwrap(), [""; 0], "{what}");
    for family in 0..2 {
        let from = pod.inside();
        let ask = |from: Option<&str>, to: &str, port| call(from, Tcp, to, port);
        assert_eq!(ask(Some(&from), OUTSIDE[family], 1001).as_deref(), Ok(NODE[family]), "{what}");
        assert_eq!(ask(None, &pod.address(family), 80).as_deref(), Ok(GATEWAY[family]), "{what}");
        assert_eq!(ask(Some(OUTSIDE_NAME), NODE[family], 8080).as_deref(), Ok(OUTSIDE[family]), "{what}");
    }
    assert_eq!(world.networks.len(), 2);
}

pub(crate) fn told() {
    in_world(|_, network| {
        let mut changes = std::fs::File::from(network.changes().unwrap());
        let mut buffer = [0; 65536];
        let mut drained = || loop {
            match changes.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => (),
            }
        };
        drained();
        platform::add_node_address("192.0.2.9");
        let started = Instant::now();
        while changes.read(&mut buffer).is_err() {
            assert!(started.elapsed() < NEWS, "nobody told of a new address");
            std::thread::sleep(Duration::from_millis(20));
        }
        platform::remove_node_address("192.0.2.9");
    });
}
