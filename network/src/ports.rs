//! Reservations of host ports. Pure. Two ports conflict when protocol and number are equal and their addresses overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use host::PodId;

use crate::{Error, HostPort, Protocol};

/// The host ports of all pods.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    taken: BTreeMap<PodId, Vec<HostPort>>,
}

impl Ports {
    /// Reserves ports for a pod and releases its former ones. Idempotent.
    ///
    /// # Errors
    /// [`Error::Conflict`] names the port and the pod that has it; [`Error::Invalid`] for port 0 or a duplicate.
    /// Nothing was changed then.
    pub fn take(&mut self, id: &PodId, ports: &[HostPort]) -> Result<(), Error> {
        for (index, port) in ports.iter().enumerate() {
            check(port)?;
            if ports[..index].iter().any(|other| meet(other, port)) {
                return Err(invalid(port, "is given twice"));
            }
        }
        for (other, theirs) in self.taken.iter().filter(|(other, _)| *other != id) {
            if let Some(port) = ports.iter().find(|port| theirs.iter().any(|taken| meet(taken, port))) {
                return Err(Error::Conflict { what: format!("host port {} is taken by pod {other}", describe(port)) });
            }
        }
        if ports.is_empty() {
            self.taken.remove(id);
        } else {
            self.taken.insert(id.clone(), ports.to_vec());
        }
        Ok(())
    }

    /// Releases a pod's ports. Idempotent.
    pub fn release(&mut self, id: &PodId) {
        self.taken.remove(id);
    }
}

/// Formats a host port for an operator: `tcp 192.0.2.1:8080`.
#[must_use]
pub fn describe(port: &HostPort) -> String {
    let protocol = port.protocol.name();
    match port.host_ip.filter(|address| !address.is_unspecified()) {
        Some(address) => format!("{protocol} {}", std::net::SocketAddr::new(address, port.host_port)),
        None => format!("{protocol} {}", port.host_port),
    }
}

impl Protocol {
    /// Returns the name in nft(8) and /etc/protocols.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Returns the IP protocol number (IANA).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl HostPort {
    /// Whether it listens on addresses of this family.
    #[must_use]
    pub fn has_family(&self, ipv4: bool) -> bool {
        self.host_ip.is_none_or(|address| address.is_ipv4() == ipv4)
    }

    /// Returns its specific address; None for all of its family.
    #[must_use]
    pub fn only_on(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }
}

fn check(port: &HostPort) -> Result<(), Error> {
    if port.host_port == 0 {
        return Err(invalid(port, "is not a port"));
    }
    if port.container_port == 0 {
        return Err(invalid(port, "leads to port 0 of the pod"));
    }
    if port.host_ip.is_some_and(|address| address.is_multicast()) {
        return Err(invalid(port, "is on a multicast address"));
    }
    Ok(())
}

fn invalid(port: &HostPort, why: &str) -> Error {
    Error::Invalid { field: "host port".to_owned(), reason: format!("{} {why}", describe(port)) }
}

fn meet(a: &HostPort, b: &HostPort) -> bool {
    let addresses_meet = match (a.host_ip, b.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
    };
    a.protocol == b.protocol && a.host_port == b.host_port && addresses_meet
}

#[cfg(test)]
mod tests {
    use host::PodId;

    use super::Ports;
    use crate::{HostPort, Protocol};

    fn port(protocol: Protocol, address: Option<&str>, host_port: u16) -> HostPort {
        HostPort { protocol, host_ip: address.map(|text| text.parse().unwrap()), host_port, container_port: 80 }
    }

    #[test]
    fn ports_meet_where_their_addresses_do() {
        use Protocol::{Tcp, Udp};
        let cases = [
            (port(Tcp, None, 80), port(Tcp, None, 80), true),
            (port(Tcp, None, 80), port(Udp, None, 80), false),
            (port(Tcp, None, 80), port(Tcp, None, 81), false),
            (port(Tcp, None, 80), port(Tcp, Some("192.0.2.1"), 80), true),
            (port(Tcp, Some("192.0.2.2"), 80), port(Tcp, Some("192.0.2.1"), 80), false),
            (port(Tcp, Some("0.0.0.0"), 80), port(Tcp, Some("192.0.2.1"), 80), true),
            (port(Tcp, Some("::"), 80), port(Tcp, Some("192.0.2.1"), 80), false),
        ];
        for (first, second, conflict) in cases {
            let (a, b) = (PodId::random(), PodId::random());
            let mut ports = Ports::default();
            ports.take(&a, std::slice::from_ref(&first)).unwrap();
            ports.take(&a, std::slice::from_ref(&first)).unwrap();
            let answer = ports.take(&b, std::slice::from_ref(&second));
            assert_eq!(answer.is_err(), conflict, "{first:?} {second:?}");
            if let Err(error) = answer {
                assert!(error.to_string().contains(a.as_str()), "{error}");
            }
            ports.release(&a);
            ports.take(&b, &[second]).unwrap();
            assert!(!ports.taken.contains_key(&a) && ports.taken[&b].len() == 1);
        }
    }

    #[test]
    fn ports_that_cannot_be_are_refused_by_their_value() {
        let mut zero = port(Protocol::Tcp, None, 0);
        let mut ports = Ports::default();
        let id = PodId::random();
        let error = ports.take(&id, std::slice::from_ref(&zero)).unwrap_err().to_string();
        assert_eq!(error, "host port: tcp 0 is not a port");
        zero.host_port = 80;
        let error = ports.take(&id, &[zero.clone(), zero]).unwrap_err().to_string();
        assert_eq!(error, "host port: tcp 80 is given twice");
        assert!(!ports.taken.contains_key(&id));
    }
}
