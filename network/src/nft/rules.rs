//! Builds the nftables rulesets of the node and of a pod, as text for nft(8). Pure. All pods share one table that
//! translates outgoing traffic. A pod with host ports, a firewall, or whose address is kept has its own table, named by its id, so that
//! one transaction creates or removes it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use host::{PodId, Prefix};
use ipnetwork::IpNetwork;

use crate::ipam::plain;
use crate::{Firewall, HostPort, NetworkSpec, Protocol, names};

/// Never translated: multicast stays on the link.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// The number of rules by table and chain.
pub type Counts = BTreeMap<(String, String), usize>;

/// The prefix of every server's table names.
pub const TABLES: &str = "cellblock-";

/// Returns the name of the shared table.
#[must_use]
pub fn node_table(prefix: &Prefix) -> String {
    format!("{TABLES}{prefix}")
}

/// Returns the name of a pod's table.
#[must_use]
pub fn pod_table(prefix: &Prefix, id: &PodId) -> String {
    format!("{}-{id}", node_table(prefix))
}

/// Returns the pod of a table; None for the shared table or another server's.
#[must_use]
pub fn pod_of_table(prefix: &Prefix, name: &str) -> Option<PodId> {
    name.strip_prefix(&node_table(prefix))?.strip_prefix('-')?.parse().ok()
}

/// Returns the ruleset that removes a table, also if it is missing.
#[must_use]
pub fn delete_table(name: &str) -> String {
    format!("table inet {name} {{}}\ndelete table inet {name}\n")
}

/// Returns the shared table: what arrives from a pod with another source than its own addresses is dropped (the route back
/// does not lead to its interface), no redirects are sent to pods, and traffic from pods to other than pods and the cluster
/// gets the node's address.
#[must_use]
pub fn node(prefix: &Prefix, pods: &[IpNetwork], untranslated: &[IpNetwork]) -> String {
    let name = node_table(prefix);
    let mut text = delete_table(&name);
    let mut rules = String::new();
    let _ = writeln!(text, "table inet {name} {{");
    for (ipv4, family, kind, multicast) in
        [(true, "ip", "ipv4_addr", MULTICAST[0]), (false, "ip6", "ipv6_addr", MULTICAST[1])]
    {
        let of_family = |networks: &[IpNetwork]| -> Vec<String> {
            networks.iter().filter(|network| network.is_ipv4() == ipv4).map(plain).collect()
        };
        let sources = of_family(pods);
        if sources.is_empty() {
            continue;
        }
        let mut direct = sources.clone();
        direct.extend(of_family(untranslated));
        direct.push(multicast.to_owned());
        for (set, networks) in [("pods", &sources), ("direct", &direct)] {
            let elements = networks.join(", ");
            let _ = writeln!(
                text,
                "  set {set}-{family} {{ type {kind}; flags interval; auto-merge; elements = {{ {elements} }}; }}"
            );
        }
        let _ = writeln!(rules, "    {family} saddr @pods-{family} {family} daddr != @direct-{family} masquerade");
    }
    let _ = writeln!(text, "  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;");
    let group = names::pod_group_number(prefix);
    text + &rules
        + &format!(
            "  }}
  chain spoofed {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup {group} fib saddr . iif oif missing drop
  }}
  chain redirects {{
    type filter hook output priority filter; policy accept;
    oifgroup {group} icmp type redirect drop
    oifgroup {group} icmpv6 type nd-redirect drop
  }}
}}
"
        )
}

/// Returns a pod's table; None if it needs none.
#[must_use]
pub fn pod(prefix: &Prefix, spec: &NetworkSpec) -> Option<String> {
    let unneeded = spec.is_translated() && spec.host_ports.is_empty() && spec.firewall == Firewall::Open;
    if spec.addresses.is_empty() || unneeded {
        return None;
    }
    let name = pod_table(prefix, &spec.id);
    let mut arriving = String::new();
    let mut own = String::new();
    let mut leaving = String::new();
    for address in &spec.addresses {
        let family = family(address);
        for port in spec.host_ports.iter().filter(|port| port.has_family(address.is_ipv4())) {
            let redirect = redirect(port, address);
            let _ = writeln!(arriving, "    {redirect}");
            let loopback = if address.is_ipv4() { "127.0.0.0/8" } else { "::1" };
            let _ = writeln!(own, "    {family} daddr != {loopback} {redirect}");
        }
        let pod = address.ip();
        if !spec.host_ports.is_empty() {
            // Without this, a pod (also the pod itself) would get the answer from the pod's address instead of the one
            // it called. The pod sees the gateway as the caller.
            let network = plain(address);
            let _ = writeln!(leaving, "    {family} saddr {network} {family} daddr {pod} ct status dnat masquerade");
        }
        if !spec.is_translated() {
            // Only the first translation of a connection applies: mapping the pod to its own address prevents any
            // other.
            let _ = writeln!(leaving, "    {family} saddr {pod} snat {family} to {pod}");
        }
    }
    let mut text = delete_table(&name);
    let _ = writeln!(text, "table inet {name} {{");
    for (chain, hook, priority, rules) in [
        ("prerouting", "prerouting", "dstnat", arriving),
        ("output", "output", "-100", own),
        ("postrouting", "postrouting", "srcnat - 10", leaving),
    ] {
        if !rules.is_empty() {
            let hook = format!("type nat hook {hook} priority {priority}; policy accept;");
            let _ = writeln!(text, "  chain {chain} {{\n    {hook}\n{rules}  }}");
        }
    }
    Some(text + &firewall(prefix, spec) + "}\n")
}

/// Returns the chain of a pod's firewall, after all translations of the destination. Neighbour discovery is not tracked.
fn firewall(prefix: &Prefix, spec: &NetworkSpec) -> String {
    let ports: &[(Protocol, u16)] = match &spec.firewall {
        Firewall::Open => return String::new(),
        Firewall::Ports(ports) => ports,
        Firewall::Isolated => &[],
    };
    let to = format!("oifname \"{}\"", names::host_end(prefix, &spec.id));
    let mut text = format!(
        "  chain firewall {{
    type filter hook postrouting priority filter; policy accept;
    {to} ct state established,related accept
    {to} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
"
    );
    for (protocol, port) in ports {
        let _ = writeln!(text, "    {to} {} dport {port} accept", protocol.name());
    }
    text + &format!("    {to} drop\n  }}\n")
}

/// Counts the rules of a ruleset that this module made.
#[must_use]
pub fn count(ruleset: &str) -> Counts {
    let mut counts = Counts::new();
    let (mut table, mut chain) = ("", None);
    for line in ruleset.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["table", "inet", name, "{"] => table = name,
            ["chain", name, "{"] => chain = Some(name),
            ["}"] => chain = None,
            ["type", ..] => (),
            _ => {
                if let Some(chain) = chain {
                    *counts.entry((table.to_owned(), chain.to_owned())).or_default() += 1;
                }
            }
        }
    }
    counts
}

/// Whether the kernel has every rule of `made`. An administrator may delete a chain or a single rule.
#[must_use]
pub fn has_all(kernel: &Counts, made: &Counts) -> bool {
    made.iter().all(|(chain, rules)| kernel.get(chain) == Some(rules))
}

/// Returns the rule of one host port and one address of the pod.
fn redirect(port: &HostPort, address: &IpNetwork) -> String {
    let family = family(address);
    let to = match address.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", port.container_port),
        IpAddr::V6(ip) => format!("[{ip}]:{}", port.container_port),
    };
    let on = match port.only_on() {
        Some(host_ip) => format!("{family} daddr {host_ip}"),
        // Only addresses of the node: a connection to the same port elsewhere is left alone.
        None => format!("meta nfproto {} fib daddr type local", if address.is_ipv4() { "ipv4" } else { "ipv6" }),
    };
    format!("{on} {} dport {} dnat {family} to {to}", port.protocol.name(), port.host_port)
}

fn family(address: &IpNetwork) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

#[cfg(test)]
mod tests {
    use host::{PodId, Prefix};
    use ipnetwork::IpNetwork;

    use super::{count, has_all, node, pod, pod_of_table, pod_table};
    use crate::{Firewall, HostPort, NetworkSpec, Protocol};

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn id() -> PodId {
        "ab".repeat(32).parse().unwrap()
    }

    #[test]
    fn what_leaves_the_pods_is_translated_but_not_between_them() {
        let text = node(&Prefix::default(), &networks(&["10.1.2.3/16"]), &networks(&["10.96.0.0/12", "fd00::/8"]));
        let expected = "\
table inet cellblock-cb {}
delete table inet cellblock-cb
table inet cellblock-cb {
  set pods-ip { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16 }; }
  set direct-ip { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16, 10.96.0.0/12, 224.0.0.0/4 }; }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @pods-ip ip daddr != @direct-ip masquerade
  }
  chain spoofed {
    type filter hook prerouting priority raw; policy accept;
    iifgroup 1667392354 fib saddr . iif oif missing drop
  }
  chain redirects {
    type filter hook output priority filter; policy accept;
    oifgroup 1667392354 icmp type redirect drop
    oifgroup 1667392354 icmpv6 type nd-redirect drop
  }
}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_missing_chain_or_rule_is_seen() {
        let made = count(&node(&Prefix::default(), &networks(&["10.1.2.3/16", "fd00::3/64"]), &[]));
        let key = |chain: &str| ("cellblock-cb".to_owned(), chain.to_owned());
        let expected = [(key("postrouting"), 2), (key("redirects"), 2), (key("spoofed"), 1)];
        assert_eq!(made, expected.into());
        let mut kernel = made.clone();
        kernel.insert(("other".to_owned(), "chain".to_owned()), 3);
        assert!(has_all(&kernel, &made));
        kernel.insert(key("redirects"), 1);
        assert!(!has_all(&kernel, &made));
        kernel = made.clone();
        kernel.remove(&key("spoofed"));
        assert!(!has_all(&kernel, &made));
    }

    #[test]
    fn a_pod_with_a_route_and_no_ports_has_no_table() {
        let mut spec = NetworkSpec {
            id: id(),
            addresses: networks(&["10.1.0.5/16"]),
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: Vec::new(),
            firewall: Firewall::Open,
        };
        assert_eq!(pod(&Prefix::default(), &spec), None);
        spec.keeps_source = true;
        let kept = pod(&Prefix::default(), &spec).unwrap();
        (spec.route, spec.keeps_source) = (false, false);
        let text = pod(&Prefix::default(), &spec).unwrap();
        assert_eq!(kept, text);
        assert!(text.contains("priority srcnat - 10"), "{text}");
        assert!(text.contains("ip saddr 10.1.0.5 snat ip to 10.1.0.5"), "{text}");
        assert!(!text.contains("dnat"), "{text}");
    }

    #[test]
    fn host_ports_lead_to_the_address_of_their_family() {
        let port = |protocol, host_ip: Option<&str>, host_port| HostPort {
            protocol,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
        };
        let spec = NetworkSpec {
            id: id(),
            addresses: networks(&["10.1.0.5/16", "fd00::5/64"]),
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: vec![
                port(Protocol::Tcp, None, 8080),
                port(Protocol::Udp, Some("192.0.2.1"), 53),
                port(Protocol::Sctp, Some("::"), 9),
            ],
            firewall: Firewall::Open,
        };
        let name = pod_table(&Prefix::default(), &id());
        let expected = format!(
            "\
table inet {name} {{}}
delete table inet {name}
table inet {name} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.1.0.5:80
    ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.1.0.5:80
    meta nfproto ipv6 fib daddr type local tcp dport 8080 dnat ip6 to [fd00::5]:80
    meta nfproto ipv6 fib daddr type local sctp dport 9 dnat ip6 to [fd00::5]:80
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.1.0.5:80
    ip daddr != 127.0.0.0/8 ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.1.0.5:80
    ip6 daddr != ::1 meta nfproto ipv6 fib daddr type local tcp dport 8080 dnat ip6 to [fd00::5]:80
    ip6 daddr != ::1 meta nfproto ipv6 fib daddr type local sctp dport 9 dnat ip6 to [fd00::5]:80
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 10; policy accept;
    ip saddr 10.1.0.0/16 ip daddr 10.1.0.5 ct status dnat masquerade
    ip6 saddr fd00::/64 ip6 daddr fd00::5 ct status dnat masquerade
  }}
}}
"
        );
        assert_eq!(pod(&Prefix::default(), &spec).unwrap(), expected);
        assert_eq!(pod_of_table(&Prefix::default(), &name), Some(id()));
        assert_eq!(pod_of_table(&"cc".parse().unwrap(), &name), None);
        assert_eq!(pod_of_table(&Prefix::default(), "cellblock-cb"), None);
    }

    #[test]
    fn a_firewall_lets_declared_ports_and_answers_in() {
        let spec = NetworkSpec {
            id: id(),
            addresses: networks(&["10.1.0.5/16"]),
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: Vec::new(),
            firewall: Firewall::Ports(vec![(Protocol::Tcp, 80)]),
        };
        let (name, end) = (pod_table(&Prefix::default(), &id()), crate::names::host_end(&Prefix::default(), &id()));
        let expected = format!(
            "\
table inet {name} {{}}
delete table inet {name}
table inet {name} {{
  chain firewall {{
    type filter hook postrouting priority filter; policy accept;
    oifname \"{end}\" ct state established,related accept
    oifname \"{end}\" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    oifname \"{end}\" tcp dport 80 accept
    oifname \"{end}\" drop
  }}
}}
"
        );
        assert_eq!(pod(&Prefix::default(), &spec).unwrap(), expected);
        let isolated = NetworkSpec { firewall: Firewall::Isolated, ..spec };
        assert!(!pod(&Prefix::default(), &isolated).unwrap().contains("dport"));
    }
}
