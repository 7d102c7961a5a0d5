//! The listener: a process that accepts connections to host ports where the packet filter cannot redirect, and forwards
//! them to the pod. On 127.0.0.1 and ::1 pf(4) cannot redirect, and nftables only with 127.0.0.0/8 made routable; on
//! the node's own addresses pf redirects the node's connections but not the answers, which never pass lo0. Each pod
//! with host ports has one listener. It outlives the server and has no runtime: one thread and poll(2).
//!
//! The pod's directory holds the spec, the lock held while the listener lives, and its process id.

mod flows;
mod forward;
mod listen;

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ExitCode};

use host::worker::Workers;
use host::worker::lone::{self, Lone, report};

use crate::{Error, HostPort, NetworkSpec, Protocol, ports, state};
pub(crate) use listen::probe;

/// The worker's name.
pub const WORKER: &str = "listen";
/// The name of its files.
const FILES: &str = "listener";
/// Printed once it listens.
const READY: &str = "ready";
/// Printed before the port when it is taken.
const TAKEN: &str = "taken ";
/// Printed before the reason when the host has exhausted a resource.
const EXHAUSTED: &str = "exhausted ";

/// The addresses of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Loopback: the packet filter redirects the rest.
    Loopback,
    /// Every address: the packet filter redirects connections from outside before they arrive.
    Node,
}

impl Reach {
    /// The worker's argument.
    fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Node => "node",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Loopback, Self::Node].into_iter().find(|reach| reach.as_str() == word)
    }
}

/// A socket to open and the target of its traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relay {
    protocol: Protocol,
    listen: SocketAddr,
    target: SocketAddr,
}

/// Returns the relays of a pod's host ports. Each targets the pod's address of the same family, or its only one. SCTP
/// has none: only the packet filter forwards it.
pub(crate) fn relays(spec: &NetworkSpec, reach: Reach) -> Vec<Relay> {
    let mut relays = Vec::new();
    for port in spec.host_ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
        for listen in addresses(port, reach) {
            let addresses = || spec.addresses.iter().map(ipnetwork::IpNetwork::ip);
            let same = addresses().find(|address| address.is_ipv4() == listen.is_ipv4());
            if let Some(target) = same.or_else(|| addresses().next()) {
                let listen = SocketAddr::new(listen, port.host_port);
                let target = SocketAddr::new(target, port.container_port);
                relays.push(Relay { protocol: port.protocol, listen, target });
            }
        }
    }
    relays
}

/// Returns the addresses to listen on for a host port.
fn addresses(port: &HostPort, reach: Reach) -> Vec<IpAddr> {
    let both: [IpAddr; 2] = match reach {
        Reach::Loopback => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Reach::Node => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    match port.host_ip {
        None => both.to_vec(),
        Some(address) if address.is_unspecified() => both[usize::from(address.is_ipv6())..][..1].to_vec(),
        Some(address) if address.is_loopback() || reach == Reach::Node => vec![address],
        Some(_) => Vec::new(),
    }
}

/// Starts the listener for a pod's directory and waits until it listens. Idempotent: None if it runs or is not needed.
/// The caller reaps the child.
pub(crate) fn start(
    workers: &Workers,
    directory: &Path,
    spec: &NetworkSpec,
    reach: Reach,
) -> Result<Option<Child>, Error> {
    if relays(spec, reach).is_empty() || running(directory)? {
        return Ok(None);
    }
    let failed = |error: io::Error| Error::failed(format!("cannot start the listener of pod {}", spec.id))(error);
    let (worker, mut stdout) = spawn(workers, directory, reach).map_err(failed)?;
    let mut answer = String::new();
    let read = stdout.read_to_string(&mut answer);
    if read.is_ok() && answer.trim_end() == READY {
        return Ok(Some(worker));
    }
    // It has printed its error or ended.
    host::worker::end(worker);
    read.map_err(failed)?;
    let answer = answer.trim_end();
    match (answer.strip_prefix(TAKEN), answer.strip_prefix(EXHAUSTED)) {
        (Some(port), _) => Err(Error::Conflict { what: format!("host port {port} is taken by a process of the node") }),
        (_, Some(what)) => Err(failed(io::Error::other(host::Exhausted(what.to_owned())))),
        (None, None) => Err(failed(io::Error::other(answer.to_owned()))),
    }
}

fn spawn(workers: &Workers, directory: &Path, reach: Reach) -> io::Result<(Child, io::PipeReader)> {
    let null = std::fs::File::open("/dev/null")?;
    let (reader, writer) = io::pipe()?;
    let args = [directory.as_os_str(), reach.as_str().as_ref()];
    let worker = workers.spawn(WORKER, &args, null.into(), Some(writer.into()))?;
    Ok((worker, reader))
}

/// Whether the listener for a pod's directory lives.
pub(crate) fn running(directory: &Path) -> Result<bool, Error> {
    let failed = Error::failed(format!("cannot look for the listener of {}", directory.display()));
    Lone::new(directory, FILES).is_running().map_err(failed)
}

/// Kills the listener for a pod's directory and waits until its ports are free. Idempotent.
pub(crate) fn stop(directory: &Path, worker: Option<Child>) -> Result<(), Error> {
    Lone::new(directory, FILES).kill().map_err(Error::failed("cannot stop a listener"))?;
    // One that lost its files, or never had them, must end too.
    let ended = worker.map_or(Ok(()), |mut worker| worker.kill().and_then(|()| worker.wait()).map(drop));
    ended.map_err(Error::failed("cannot wait for a listener"))
}

/// Runs the worker: `listen DIRECTORY REACH`. Prints that it listens or why it cannot, closes its standard output, and
/// serves until it is killed.
pub fn main(args: &[OsString]) -> ExitCode {
    let reach = args.get(1).and_then(|word| Reach::parse(word.to_str()?));
    let (Some(directory), Some(reach)) = (args.first(), reach) else {
        return print("usage: listen DIRECTORY loopback|node", ExitCode::from(64));
    };
    match open(Path::new(directory), reach) {
        Ok((lock, sockets)) => {
            report(READY);
            // The server reads to the end of the output: a listener that cannot close it is of no use.
            if lone::null().and_then(|null| lone::close_output(&null)).is_err() {
                return ExitCode::FAILURE;
            }
            let error = forward::serve(sockets);
            drop(lock);
            // Nobody reads this; the exit code shows that poll(2) failed.
            print(&error.to_string(), ExitCode::FAILURE)
        }
        Err(Refused::Taken(port)) => print(&format!("{TAKEN}{port}"), ExitCode::FAILURE),
        Err(Refused::Other(error)) => {
            let before = if host::is_exhausted(&*error) { EXHAUSTED } else { "" };
            print(&format!("{before}{}", host::chain(&*error)), ExitCode::FAILURE)
        }
    }
}

/// Why the listener does not start.
enum Refused {
    Taken(String),
    Other(Box<dyn std::error::Error>),
}

impl<E: std::error::Error + 'static> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Other(Box::new(error))
    }
}

fn open(directory: &Path, reach: Reach) -> Result<(host::fs::Lock, Vec<listen::Listening>), Refused> {
    let lock = Lone::new(directory, FILES).claim()?;
    // A new session: signals for the server or its terminal do not reach it.
    let _ = nix::unistd::setsid();
    let spec = state::load(directory)?.ok_or_else(|| io::Error::other("the spec is missing"))?;
    let mut sockets = Vec::new();
    for relay in relays(&spec, reach) {
        match listen::open(&relay) {
            Ok(socket) => sockets.extend(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(Refused::Taken(format!("{} {}", relay.protocol.name(), relay.listen)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((lock, sockets))
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    report(text);
    code
}

/// Fails if a process of the node has one of these ports.
pub(crate) fn check_free(ports: &[HostPort]) -> Result<(), Error> {
    for port in ports {
        match probe(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let what = format!("host port {} is taken by a process of the node", ports::describe(port));
                return Err(Error::Conflict { what });
            }
            _ => (),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use host::PodId;

    use super::{Reach, relays};
    use crate::{HostPort, NetworkSpec, Protocol};

    #[test]
    fn each_loopback_leads_to_the_address_of_its_family_or_the_one_there_is() {
        let both: &[&str] = &["10.1.0.5/16", "fd00::5/64"];
        let cases: &[(&[&str], Option<&str>, &[&str])] = &[
            (both, None, &["127.0.0.1:80 10.1.0.5:8080", "[::1]:80 [fd00::5]:8080"]),
            (&["10.1.0.5/16"], None, &["127.0.0.1:80 10.1.0.5:8080", "[::1]:80 10.1.0.5:8080"]),
            (both, Some("0.0.0.0"), &["127.0.0.1:80 10.1.0.5:8080"]),
            (both, Some("::"), &["[::1]:80 [fd00::5]:8080"]),
            (both, Some("127.0.0.2"), &["127.0.0.2:80 10.1.0.5:8080"]),
            (both, Some("192.0.2.1"), &[]),
            (&[], None, &[]),
        ];
        for (addresses, host_ip, expected) in cases {
            let port = |protocol| HostPort {
                protocol,
                host_ip: host_ip.map(|text| text.parse().unwrap()),
                host_port: 80,
                container_port: 8080,
            };
            let spec = NetworkSpec {
                id: PodId::random(),
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                route: true,
                keeps_source: false,
                lent: None,
                host_ports: vec![port(Protocol::Tcp), port(Protocol::Sctp)],
                firewall: crate::Firewall::Open,
            };
            let found: Vec<String> = relays(&spec, Reach::Loopback)
                .iter()
                .map(|relay| format!("{} {}", relay.listen, relay.target))
                .collect();
            assert_eq!(found, *expected, "{addresses:?} {host_ip:?}");
            let on_the_node = relays(&spec, Reach::Node);
            assert!(on_the_node.iter().all(|relay| host_ip.is_some() || relay.listen.ip().is_unspecified()));
            assert_eq!(on_the_node.len(), if *host_ip == Some("192.0.2.1") { 1 } else { expected.len() });
        }
    }
}
