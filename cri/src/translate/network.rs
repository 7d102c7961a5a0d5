//! A pod's wishes for its network: host ports, and by annotation a static address, another route, a firewall or an interface of the
//! node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use network::{Firewall, HostPort, Lent, Protocol};
use proto::v1::{PortMapping, Protocol as WireProtocol};
use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, invalid};
use crate::config::{FirewallPolicy, NetworkConfig};

/// The annotation for static addresses: at most one of each family, separated by a comma.
pub(crate) const ADDRESS_ANNOTATION: &str = "network.cellblock/address";
/// The annotation for a pod without a default route, `none`, or whose packets keep its address, `untranslated`.
pub(crate) const ROUTE_ANNOTATION: &str = "network.cellblock/route";
/// The annotation for what may come to a pod that it did not ask for: a [`FirewallPolicy`].
pub(crate) const FIREWALL_ANNOTATION: &str = "network.cellblock/firewall";
/// The annotation for an interface of the node: its name, and the addresses that it gets in the pod.
pub(crate) const INTERFACE_ANNOTATION: &str = "network.cellblock/interface";

/// The annotation for rules of the pod's own pf: the name of a file in the configuration's directory.
pub(crate) const FILTER_ANNOTATION: &str = "network.cellblock/pf";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkWish {
    /// Whether it uses the host's network.
    pub(crate) host: bool,
    /// Its static addresses; a family without one gets any.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it has a default route.
    pub(crate) route: bool,
    /// Whether what it sends outside keeps its address.
    #[serde(default)]
    pub(crate) keeps_source: bool,
    /// The interface of the node that it wants besides its own.
    #[serde(default)]
    pub(crate) lent: Option<Lent>,
    /// The file of the rules for its own pf.
    #[serde(default)]
    pub(crate) filter: Option<PathBuf>,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) firewall: Firewall,
}

/// The wish of a pod.
pub(super) fn wish(
    host: bool,
    annotations: &BTreeMap<String, String>,
    mappings: &[PortMapping],
    config: &NetworkConfig,
) -> Result<NetworkWish, Refusal> {
    // On the host's network a pod's port is the host's.
    let host_ports = if host { Vec::new() } else { host_ports(mappings)? };
    let (route, keeps_source) = route(annotations)?;
    Ok(NetworkWish {
        host,
        addresses: addresses(annotations)?,
        route,
        keeps_source,
        filter: filter(host, annotations, config.pf_directory.as_deref())?,
        lent: lent(host, annotations, &config.interfaces)?,
        firewall: firewall(host, annotations, mappings, config.firewall, &host_ports)?,
        host_ports,
    })
}

fn firewall(
    host: bool,
    annotations: &BTreeMap<String, String>,
    mappings: &[PortMapping],
    policy: FirewallPolicy,
    host_ports: &[HostPort],
) -> Result<Firewall, Refusal> {
    let refused = |reason: String| invalid(format!("annotations[{FIREWALL_ANNOTATION}]"), reason);
    let own = annotations.get(FIREWALL_ANNOTATION).map(String::as_str);
    let policy = match own {
        None => policy,
        Some("open") => FirewallPolicy::Open,
        Some("ports") => FirewallPolicy::Ports,
        Some("isolated") => FirewallPolicy::Isolated,
        Some(other) => return Err(refused(format!("{other:?} is not \"open\", \"ports\" or \"isolated\""))),
    };
    match policy {
        FirewallPolicy::Open => Ok(Firewall::Open),
        // The default of the configuration is for pods with a network of their own.
        _ if host && own.is_none() => Ok(Firewall::Open),
        _ if host => Err(refused("a pod on the node's network has no firewall of its own".to_owned())),
        FirewallPolicy::Isolated => match host_ports.first() {
            None => Ok(Firewall::Isolated),
            Some(port) => Err(refused(format!("\"isolated\" leaves no way to host port {}", port.host_port))),
        },
        FirewallPolicy::Ports => Ok(Firewall::Ports(declared(mappings)?)),
    }
}

/// The ports that the containers of a pod declare, each once.
fn declared(mappings: &[PortMapping]) -> Result<Vec<(Protocol, u16)>, Refusal> {
    let mut ports = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let protocol = protocol(&format!("port_mappings[{index}].protocol"), mapping.protocol)?;
        let port = (protocol, port(&format!("port_mappings[{index}].container_port"), mapping.container_port)?);
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

fn addresses(annotations: &BTreeMap<String, String>) -> Result<Vec<IpAddr>, Refusal> {
    let Some(text) = annotations.get(ADDRESS_ANNOTATION) else { return Ok(Vec::new()) };
    let field = || format!("annotations[{ADDRESS_ANNOTATION}]");
    let parse = |word: &str| word.trim().parse().map_err(|_| invalid(field(), format!("{word:?} is not an address")));
    let addresses: Vec<IpAddr> = text.split(',').map(parse).collect::<Result<_, _>>()?;
    let of_family = |v4: bool| addresses.iter().filter(|address| address.is_ipv4() == v4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        return Err(invalid(field(), format!("{text:?} has two addresses of one family")));
    }
    Ok(addresses)
}

fn filter(
    host: bool,
    annotations: &BTreeMap<String, String>,
    directory: Option<&Path>,
) -> Result<Option<PathBuf>, Refusal> {
    let Some(name) = annotations.get(FILTER_ANNOTATION) else { return Ok(None) };
    let refused = |reason: String| invalid(format!("annotations[{FILTER_ANNOTATION}]"), reason);
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(refused(format!("{name:?} is not the name of a file")));
    }
    if host {
        return Err(refused("a pod on the node's network has no pf of its own".to_owned()));
    }
    let none = || refused(format!("{name:?}, and the configuration has no network.pf_directory"));
    Ok(Some(directory.ok_or_else(none)?.join(name)))
}

fn lent(host: bool, annotations: &BTreeMap<String, String>, allowed: &[String]) -> Result<Option<Lent>, Refusal> {
    let Some(text) = annotations.get(INTERFACE_ANNOTATION) else { return Ok(None) };
    let refused = |reason: String| invalid(format!("annotations[{INTERFACE_ANNOTATION}]"), reason);
    let mut words = text.split_whitespace();
    let name = words.next().ok_or_else(|| refused(format!("{text:?} names no interface")))?;
    if allowed.iter().all(|known| known != name) {
        return Err(refused(format!("interface {name:?} is not in the configuration's network.interfaces")));
    }
    if host {
        return Err(refused("a pod on the node's network has all of its interfaces".to_owned()));
    }
    let address = |word: &str| match word.parse::<IpNetwork>() {
        Ok(address) if word.contains('/') => Ok(address),
        _ => Err(refused(format!("{word:?} is not an address with the prefix length of its network"))),
    };
    Ok(Some(Lent { name: name.to_owned(), addresses: words.map(address).collect::<Result<_, _>>()? }))
}

/// Whether the pod has a default route, and whether it keeps its address on it.
fn route(annotations: &BTreeMap<String, String>) -> Result<(bool, bool), Refusal> {
    match annotations.get(ROUTE_ANNOTATION).map(String::as_str) {
        None => Ok((true, false)),
        Some("none") => Ok((false, false)),
        Some("untranslated") => Ok((true, true)),
        Some(other) => {
            let reason = format!("{other:?} is not \"none\" or \"untranslated\"");
            Err(invalid(format!("annotations[{ROUTE_ANNOTATION}]"), reason))
        }
    }
}

fn host_ports(mappings: &[PortMapping]) -> Result<Vec<HostPort>, Refusal> {
    let mut ports: Vec<HostPort> = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let field = |name: &str| format!("port_mappings[{index}].{name}");
        // A container port without a host port is documentation only: kubelet sends it for every declared port.
        if mapping.host_port == 0 {
            continue;
        }
        let port = HostPort {
            protocol: protocol(&field("protocol"), mapping.protocol)?,
            host_ip: host_ip(&field("host_ip"), &mapping.host_ip)?,
            host_port: port(&field("host_port"), mapping.host_port)?,
            container_port: port(&field("container_port"), mapping.container_port)?,
        };
        if ports.iter().any(|other| clash(other, &port)) {
            return Err(invalid(field("host_port"), format!("{} is mapped twice", port.host_port)));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Whether two mappings claim the same address and port.
fn clash(one: &HostPort, other: &HostPort) -> bool {
    let addresses = one.host_ip.is_none() || other.host_ip.is_none() || one.host_ip == other.host_ip;
    one.protocol == other.protocol && one.host_port == other.host_port && addresses
}

fn protocol(field: &str, value: i32) -> Result<Protocol, Refusal> {
    match WireProtocol::try_from(value) {
        Ok(WireProtocol::Tcp) => Ok(Protocol::Tcp),
        Ok(WireProtocol::Udp) => Ok(Protocol::Udp),
        Ok(WireProtocol::Sctp) => Ok(Protocol::Sctp),
        Err(_) => Err(invalid(field, format!("{value} is no protocol"))),
    }
}

fn host_ip(field: &str, text: &str) -> Result<Option<IpAddr>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text.parse().map_err(|_| invalid(field, format!("{text:?} is not an address")))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

fn port(field: &str, value: i32) -> Result<u16, Refusal> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| invalid(field, format!("{value} is not between 1 and 65535")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use network::{Firewall, HostPort, Protocol};
    use proto::v1::PortMapping;

    use super::{
        ADDRESS_ANNOTATION, FILTER_ANNOTATION, FIREWALL_ANNOTATION, FirewallPolicy, INTERFACE_ANNOTATION,
        NetworkConfig, NetworkWish, ROUTE_ANNOTATION, Refusal,
    };

    fn wish(host: bool, all: &BTreeMap<String, String>, mappings: &[PortMapping]) -> Result<NetworkWish, Refusal> {
        super::wish(host, all, mappings, &NetworkConfig::default())
    }

    fn mapping(protocol: i32, container_port: i32, host_port: i32, host_ip: &str) -> PortMapping {
        PortMapping { protocol, container_port, host_port, host_ip: host_ip.to_owned() }
    }

    fn annotation(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_host_port_is_kept_and_a_mere_container_port_is_not() {
        let mappings = [mapping(0, 80, 8080, "0.0.0.0"), mapping(1, 53, 0, ""), mapping(1, 53, 53, "127.0.0.1")];
        let wanted = wish(false, &BTreeMap::new(), &mappings).unwrap().host_ports;
        let http = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8080, container_port: 80 };
        let loopback = Some("127.0.0.1".parse().unwrap());
        let dns = HostPort { protocol: Protocol::Udp, host_ip: loopback, host_port: 53, container_port: 53 };
        assert_eq!(wanted, [http, dns]);
        assert!(wish(true, &BTreeMap::new(), &mappings).unwrap().host_ports.is_empty());
    }

    #[test]
    fn a_mapping_that_cannot_be_is_refused_with_its_field() {
        for (mappings, wanted) in [
            (vec![mapping(7, 80, 80, "")], "port_mappings[0].protocol: 7"),
            (vec![mapping(0, 80, 65536, "")], "port_mappings[0].host_port: 65536"),
            (vec![mapping(0, 0, 80, "")], "port_mappings[0].container_port: 0"),
            (vec![mapping(0, 80, 80, "localhost")], "port_mappings[0].host_ip: \"localhost\""),
            (vec![mapping(0, 80, 80, ""), mapping(0, 81, 80, "10.0.0.1")], "port_mappings[1].host_port: 80"),
        ] {
            let refusal = wish(false, &BTreeMap::new(), &mappings).unwrap_err().to_string();
            assert!(refusal.contains(wanted), "{refusal}");
        }
    }

    #[test]
    fn annotations_ask_for_an_address_and_for_no_route() {
        let static_address = wish(false, &annotation(ADDRESS_ANNOTATION, "10.88.0.9, fd00::9"), &[]).unwrap();
        assert_eq!(static_address.addresses.len(), 2);
        assert!(static_address.route);
        for (value, expected) in [("none", (false, false)), ("untranslated", (true, true))] {
            let wish = wish(false, &annotation(ROUTE_ANNOTATION, value), &[]).unwrap();
            assert_eq!((wish.route, wish.keeps_source), expected, "{value}");
        }
        for (key, value) in [
            (ADDRESS_ANNOTATION, "10.0.0.1,10.0.0.2"),
            (ADDRESS_ANNOTATION, "ten"),
            (ROUTE_ANNOTATION, "default"),
            (FIREWALL_ANNOTATION, "closed"),
        ] {
            let refusal = wish(false, &annotation(key, value), &[]).unwrap_err().to_string();
            assert!(refusal.contains(key), "{refusal}");
        }
    }

    #[test]
    fn an_interface_is_lent_if_the_configuration_has_it() {
        let config = NetworkConfig { interfaces: vec!["vlan5".to_owned()], ..NetworkConfig::default() };
        let of = |host, value| super::wish(host, &annotation(INTERFACE_ANNOTATION, value), &[], &config);
        let lent = of(false, "vlan5 192.0.2.5/24 2001:db8::5/64").unwrap().lent.unwrap();
        assert_eq!((&*lent.name, lent.addresses.len()), ("vlan5", 2));
        assert_eq!(lent.addresses[0].to_string(), "192.0.2.5/24");
        assert!(of(false, "vlan5").unwrap().lent.unwrap().addresses.is_empty());
        for (host, value, reason) in [
            (false, "", "names no interface"),
            (false, "em0 192.0.2.5/24", "\"em0\" is not in"),
            (false, "vlan5 192.0.2.5", "\"192.0.2.5\" is not"),
            (false, "vlan5 ten/24", "\"ten/24\" is not"),
            (true, "vlan5", "on the node's network"),
        ] {
            let refusal = of(host, value).unwrap_err().to_string();
            assert!(refusal.contains(INTERFACE_ANNOTATION) && refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn a_file_of_rules_is_below_the_configured_directory() {
        let config = NetworkConfig { pf_directory: Some("/etc/pf.pods".into()), ..NetworkConfig::default() };
        let of = |host, value, config| {
            let wish = super::wish(host, &annotation(FILTER_ANNOTATION, value), &[], config);
            wish.map(|wish| wish.filter.unwrap()).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(of(false, "web.conf", &config), Ok("/etc/pf.pods/web.conf".into()));
        for (refusal, reason) in [
            (of(false, "../pf.conf", &config), "\"../pf.conf\" is not"),
            (of(false, "", &config), "\"\" is not"),
            (of(false, ".web", &config), "\".web\" is not"),
            (of(true, "web.conf", &config), "on the node's network"),
            (of(false, "web.conf", &NetworkConfig::default()), "network.pf_directory"),
        ] {
            let refusal = refusal.unwrap_err();
            assert!(refusal.contains(FILTER_ANNOTATION) && refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn a_firewall_is_open_for_the_ports_that_are_declared() {
        let mappings = [mapping(0, 80, 8080, ""), mapping(0, 80, 0, ""), mapping(1, 53, 0, "")];
        let ports = Firewall::Ports(vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
        let of = |host, value: Option<&str>, mappings: &[PortMapping], policy| {
            let config = NetworkConfig { firewall: policy, ..NetworkConfig::default() };
            let all = value.map(|value| annotation(FIREWALL_ANNOTATION, value)).unwrap_or_default();
            super::wish(host, &all, mappings, &config).map(|wish| wish.firewall).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(of(false, Some("ports"), &mappings, FirewallPolicy::Open), Ok(ports.clone()));
        assert_eq!(of(false, None, &mappings, FirewallPolicy::Ports), Ok(ports));
        assert_eq!(of(false, Some("open"), &mappings, FirewallPolicy::Isolated), Ok(Firewall::Open));
        assert_eq!(of(false, Some("isolated"), &mappings[1..], FirewallPolicy::Open), Ok(Firewall::Isolated));
        assert_eq!(of(true, None, &[], FirewallPolicy::Isolated), Ok(Firewall::Open));
        for (refusal, reason) in [
            (of(false, None, &mappings, FirewallPolicy::Isolated), "no way to host port 8080"),
            (of(true, Some("ports"), &[], FirewallPolicy::Open), "on the node's network"),
        ] {
            let refusal = refusal.unwrap_err();
            assert!(refusal.contains(FIREWALL_ANNOTATION) && refusal.contains(reason), "{refusal}");
        }
    }
}
