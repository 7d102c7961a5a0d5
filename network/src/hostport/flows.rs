//! UDP flows. A flow maps the pod's answers to a client, until it is idle for a while.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::listen::Listening;

/// The limit of flows per pod; a new one replaces the longest idle.
const FLOWS: usize = 256;
/// The lifetime of an idle flow: longer than a DNS client waits, as long as conntrack's for UDP.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// Datagrams per socket and turn, so that every socket is served.
const BURST: usize = 32;

/// A client and its socket to the pod.
#[derive(Debug)]
struct Flow {
    /// The index of the listening socket.
    socket: usize,
    client: SocketAddr,
    pod: UdpSocket,
    used: Instant,
}

/// All flows of a listener.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: Vec<Flow>,
}

impl Flows {
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The sockets to poll, in the order that [`Flows::answer`] expects.
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.flows.iter().map(|flow| flow.pod.as_fd())
    }

    /// Forwards datagrams of clients to the pod. Drops those that cannot be sent, as UDP may.
    pub(super) fn forward(&mut self, index: usize, socket: &UdpSocket, target: SocketAddr, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let Ok((length, client)) = socket.recv_from(buffer) else { return };
            if let Some(flow) = self.find_or_open(index, client, target) {
                flow.used = Instant::now();
                let _ = flow.pod.send(&buffer[..length]);
            }
        }
    }

    /// Forwards the pod's answers; `ready` is poll(2)'s result for each flow.
    pub(super) fn answer(&mut self, sockets: &[Listening], ready: &[PollFlags], buffer: &mut [u8]) {
        for (flow, _) in self.flows.iter_mut().zip(ready).filter(|(_, ready)| !ready.is_empty()) {
            let Some(Listening::Udp(socket, _)) = sockets.get(flow.socket) else { continue };
            for _ in 0..BURST {
                match flow.pod.recv(buffer) {
                    Ok(length) => {
                        flow.used = Instant::now();
                        let _ = socket.send_to(&buffer[..length], flow.client);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // The pod refused an earlier datagram (ICMP); reading clears the error.
                    Err(_) => (),
                }
            }
        }
    }

    /// Removes flows that were idle too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.flows.retain(|flow| now.saturating_duration_since(flow.used) < IDLE);
    }

    fn find_or_open(&mut self, socket: usize, client: SocketAddr, target: SocketAddr) -> Option<&mut Flow> {
        let known = self.flows.iter().position(|flow| flow.socket == socket && flow.client == client);
        if let Some(known) = known {
            return self.flows.get_mut(known);
        }
        if self.flows.len() >= FLOWS {
            let oldest = self.flows.iter().enumerate().min_by_key(|(_, flow)| flow.used).map(|(index, _)| index);
            self.flows.swap_remove(oldest.expect("there are flows"));
        }
        let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let pod = UdpSocket::bind((any, 0)).ok()?;
        pod.connect(target).and_then(|()| pod.set_nonblocking(true)).ok()?;
        self.flows.push(Flow { socket, client, pod, used: Instant::now() });
        self.flows.last_mut()
    }
}
