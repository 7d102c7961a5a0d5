//! What a pod does that is not the owner of an address: it sends from it, or answers for it.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use network::Protocol::Tcp;

use crate::cases::in_world;
use crate::platform::{add_pod_address, send, serve};
use crate::world::{GATEWAY, OUTSIDE, Pod, call, call_in_vain};

/// How long a datagram may take, and how long none is waited for.
const ARRIVAL: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(600);

/// The node's socket of each family.
fn listen(family: usize) -> UdpSocket {
    UdpSocket::bind((["0.0.0.0", "::"][family], 1002)).unwrap()
}

/// Whether what the pod sends from this source arrives at the node.
fn arrives(pod: &Pod, source: &str, family: usize, wait: Duration) -> bool {
    let socket = listen(family);
    socket.set_read_timeout(Some(wait)).unwrap();
    send(&pod.inside(), source.parse().unwrap(), (GATEWAY[family].parse::<std::net::IpAddr>().unwrap(), 1002).into());
    match socket.recv(&mut [0; 100]) {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => false,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn forged_sources() {
    in_world(|world, network| {
        let (a, b) = (world.pod(network, true, vec![]), world.pod(network, true, vec![]));
        for family in 0..2 {
            assert!(arrives(&a, &a.address(family), family, ARRIVAL), "its own address");
            // A neighbour's, another machine's, one of the pod network that is free, and the gateway's.
            let free = ["10.77.200.200", "fd00:77::c8"][family];
            for forged in [&*b.address(family), OUTSIDE[family], free, GATEWAY[family]] {
                add_pod_address(&a.inside(), forged);
                assert!(!arrives(&a, forged, family, SILENCE), "sent from {forged}");
            }
        }
        a.remove(network);
        b.remove(network);
    });
}

pub(crate) fn claimed_addresses() {
    in_world(|world, network| {
        let (a, b) = (world.pod(network, true, vec![]), world.pod(network, true, vec![]));
        // An address that is added is announced: by a gratuitous ARP, by an unsolicited neighbour advertisement.
        a.serve(1003);
        for (family, gateway) in GATEWAY.iter().enumerate() {
            for claimed in [gateway, &*b.address(family)] {
                add_pod_address(&a.inside(), claimed);
            }
        }
        serve(None, 1004);
        b.serve(80);
        for (family, gateway) in GATEWAY.iter().enumerate() {
            assert_eq!(call(Some(&b.inside()), Tcp, gateway, 1004).as_deref(), Ok(&*b.address(family)));
            call_in_vain(Some(&b.inside()), Tcp, gateway, 1003);
            assert_eq!(call(None, Tcp, &b.address(family), 80).as_deref(), Ok(*gateway));
            call_in_vain(None, Tcp, &b.address(family), 1003);
        }
        a.remove(network);
        b.remove(network);
    });
}
