//! Builds the pf.conf(5) rules of the node and of a pod, as text for pfctl(8), and parses pfctl's output. Pure. All
//! rules are below one anchor. The main ruleset is the operator's; it is only checked for the lines that lead there.

use std::fmt::Write;
use std::net::IpAddr;

use host::{PodId, Prefix};
use ipnetwork::IpNetwork;

use crate::ipam::plain;
use crate::{Firewall, HostPort, NetworkSpec, names};

/// The anchor of the shared rules. It sorts after every pod's, since ids are hexadecimal and pf evaluates anchors in
/// the order of their names.
const NODE: &str = "node";
/// The table of the pod networks, in the node's anchor.
pub const PODS: &str = "pods";
/// Never translated: multicast stays on the link.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// Returns the server's top anchor: `cellblock`, with another prefix `cellblock-PREFIX`.
#[must_use]
pub fn root(prefix: &Prefix) -> String {
    if *prefix == Prefix::default() { "cellblock".to_owned() } else { format!("cellblock-{prefix}") }
}

/// Returns the anchor of the shared rules.
#[must_use]
pub fn node_anchor(prefix: &Prefix) -> String {
    format!("{}/{NODE}", root(prefix))
}

/// Returns a pod's anchor. A part of an anchor name has at most 63 characters (PF_ANCHOR_NAME_SIZE), an id 64.
#[must_use]
pub fn pod_anchor(prefix: &Prefix, id: &PodId) -> String {
    format!("{}/{}", root(prefix), id.short())
}

/// Returns the lines that the main ruleset needs among its translation rules.
#[must_use]
pub fn required_lines(prefix: &Prefix) -> [String; 2] {
    let root = root(prefix);
    [format!("nat-anchor \"{root}/*\""), format!("rdr-anchor \"{root}/*\"")]
}

/// Returns the [`required_lines`] that are missing from the output of `pfctl -s nat`.
#[must_use]
pub fn missing_lines(prefix: &Prefix, printed: &str) -> Vec<String> {
    let stands = |line: &String| {
        let exact = format!("{line} all");
        let keyword = line.split(' ').next().unwrap_or_default();
        let everything = format!("{keyword} \"*\" all");
        printed.lines().map(str::trim).any(|printed| printed == exact || printed == everything)
    };
    required_lines(prefix).into_iter().filter(|line| !stands(line)).collect()
}

/// Returns the line that the main ruleset needs among its filter rules.
#[must_use]
pub fn filter_line(prefix: &Prefix) -> String {
    format!("anchor \"{}/*\"", root(prefix))
}

/// What the output of `pfctl -s rules` does to the anchor's filter rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// They count.
    Heard,
    /// They are not named. Pods have their network, and may forge their sources.
    Unnamed,
    /// They are not named, or overruled by a later line, and a line blocks everything: no pod has a network.
    Blocked,
}

/// Says what the main ruleset does to the anchor's filter rules. Only lines that block everything count: what else an
/// operator blocks is meant so.
#[must_use]
pub fn filter(prefix: &Prefix, printed: &str) -> Filter {
    let exact = format!("{} all", filter_line(prefix));
    let lines: Vec<&str> = printed.lines().map(str::trim).collect();
    let anchor = lines.iter().rposition(|line| *line == exact || *line == "anchor \"*\" all");
    let blocks = |line: &&str| {
        let mut words = line.split(' ').filter(|word| !matches!(*word, "drop" | "return" | "in" | "out" | "log"));
        words.next() == Some("block") && words.next() == Some("all")
    };
    match (anchor, lines.iter().rposition(blocks)) {
        (Some(anchor), Some(block)) if anchor < block => Filter::Blocked,
        (Some(_), _) => Filter::Heard,
        (None, Some(_)) => Filter::Blocked,
        (None, None) => Filter::Unnamed,
    }
}

/// Whether the output of `pfctl -s info` says that pf is enabled.
#[must_use]
pub fn is_enabled(printed: &str) -> bool {
    printed.lines().any(|line| line.trim_start().starts_with("Status: Enabled"))
}

/// Parses the short ids of pods from the output of `pfctl -a ROOT -s Anchors`.
#[must_use]
pub fn pods_of<'a>(prefix: &Prefix, printed: &'a str) -> Vec<&'a str> {
    let below = format!("{}/", root(prefix));
    let names = printed.lines().filter_map(|line| line.trim().strip_prefix(&below));
    names.filter(|name| names::is_short(name)).collect()
}

/// Parses the states towards these addresses from the output of `pfctl -s states -vv`, each as `pfctl -k id -k` takes it. A state
/// reads `FROM -> TO` if it began on the way out, `TO <- FROM` on the way in; the other side of a translation is in parentheses.
#[must_use]
pub fn states_to(addresses: &[IpAddr], printed: &str) -> Vec<String> {
    let address = |word: &str| -> Option<IpAddr> {
        let word = word.trim_matches(['(', ')']);
        // IPv6 addresses have their port in brackets.
        let (text, _) = word.split_once('[').or_else(|| word.rsplit_once(':'))?;
        text.parse().ok()
    };
    let (mut states, mut is_theirs) = (Vec::new(), false);
    for line in printed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["id:", id, "creatorid:", creator] if is_theirs => states.push(format!("{id}/{creator}")),
            _ if line.starts_with(' ') => (),
            _ => {
                let to = match line.split_once(" <- ") {
                    Some((to, _)) => to,
                    None => line.split_once(" -> ").map_or("", |(_, to)| to),
                };
                is_theirs = to.split_whitespace().filter_map(address).any(|to| addresses.contains(&to));
            }
        }
    }
    states
}

/// Returns the limit of anchors if a load failed because of it, from the output of `pfctl -s memory` and pfctl's error
/// text. Only FreeBSD 15 has the limit (`set limit anchors`, pf.conf(5); 0: none). Counting anchors does not work:
/// per-CPU caches hold some, and Ethernet rules have anchors too.
#[must_use]
pub fn exhausted_limit(limits: &str, said: &str) -> Option<usize> {
    let limit = limits.lines().find_map(|line| line.trim().strip_prefix("anchors")?.trim().strip_prefix("hard limit"));
    let limit: usize = limit?.trim().parse().ok()?;
    (limit > 0 && said.trim() == "pfctl: pfctl_rules").then_some(limit)
}

/// Returns the shared rules: traffic from pods through one of these interfaces, to other than pods and the cluster,
/// gets the interface's address. A table negates the addresses of pods that keep theirs, since `no nat` in a pod's
/// anchor does not stop later anchors (FreeBSD 15). An interface is its name and whether it has IPv4 and IPv6
/// addresses.
///
/// Filter rules come after them. What no operator may allow is quick: from a pod, another source than its own addresses
/// (the route back does not lead to its interface); to a pod, a redirect. What pods need passes, without quick: rules of
/// the operator after the anchor win. A tag takes pods' own traffic past the translation; `PODS` in it, since the root's
/// name tags redirected connections.
#[must_use]
pub fn node(
    prefix: &Prefix,
    pods: &[IpNetwork],
    kept: &[IpAddr],
    untranslated: &[IpNetwork],
    interfaces: &[(String, bool, bool)],
) -> String {
    let mut direct: Vec<String> = pods.iter().chain(untranslated).map(plain).collect();
    direct.extend(MULTICAST.map(str::to_owned));
    let all: Vec<String> = pods.iter().map(plain).collect();
    let kept = kept.iter().map(|address| format!("!{address}"));
    let translated: Vec<String> = all.iter().cloned().chain(kept).collect();
    let mut text = String::new();
    for (table, members) in [(PODS, all), ("translated", translated), ("direct", direct)] {
        let _ = writeln!(text, "table <{table}> {{ {} }}", members.join(" "));
    }
    for (name, ipv4, ipv6) in interfaces {
        for (family, has) in [("inet", ipv4), ("inet6", ipv6)] {
            if *has && pods.iter().any(|network| network.is_ipv4() == (family == "inet")) {
                let _ = writeln!(text, "nat on {name} {family} from <translated> to ! <direct> -> ({name}:0)");
            }
        }
    }
    let (group, root) = (names::pod_group(prefix), root(prefix));
    for (family, protocol, redirect) in [("inet", 1, 5), ("inet6", 58, 137)] {
        let _ = writeln!(
            text,
            "block drop in quick on {group} {family} from urpf-failed to any
block drop out quick on {group} {family} proto {protocol} all {}-type {redirect}",
            if protocol == 1 { "icmp" } else { "icmp6" }
        );
    }
    let _ = writeln!(
        text,
        "pass in on {group} from <{PODS}> to any ! tagged {root} tag {root}-{PODS}
pass in from <direct> to <{PODS}>
pass in tagged {root}
pass out on {group}
pass out tagged {root}-{PODS}"
    );
    text
}

/// Returns a pod's rules; None if it needs none.
#[must_use]
pub fn pod(prefix: &Prefix, spec: &NetworkSpec) -> Option<String> {
    if spec.addresses.is_empty() || (spec.host_ports.is_empty() && spec.firewall == Firewall::Open) {
        return None;
    }
    // pf evaluates rules of one kind in order; pfctl requires no order between the kinds.
    let (mut nat, mut rdr) = (String::new(), String::new());
    for address in &spec.addresses {
        for port in spec.host_ports.iter().filter(|port| port.has_family(address.is_ipv4())) {
            if port.only_on().is_some_and(|host_ip| host_ip.is_loopback()) {
                continue;
            }
            redirect(prefix, port, address, &mut nat, &mut rdr);
        }
    }
    Some(nat + &rdr + &firewall(prefix, spec))
}

/// Returns the filter rules of a pod's firewall. A quick pass would silence the operator's rules after the anchor, so what may come
/// is only tagged (tags outlast the rule, pf.conf(5)), and all else is blocked. Answers have a state and pass before any rule.
fn firewall(prefix: &Prefix, spec: &NetworkSpec) -> String {
    let (interface, tag) = (names::host_end(prefix, &spec.id), format!("{}-open", root(prefix)));
    match &spec.firewall {
        Firewall::Open => String::new(),
        Firewall::Isolated => format!("block drop out quick on {interface} all\n"),
        Firewall::Ports(ports) => {
            let mut text = String::new();
            for (protocol, port) in ports {
                let protocol = protocol.number();
                let _ =
                    writeln!(text, "pass out on {interface} proto {protocol} from any to any port {port} tag {tag}");
            }
            text + &format!("block drop out quick on {interface} all ! tagged {tag}\n")
        }
    }
}

/// Adds the rules of one host port and one address of the pod.
fn redirect(prefix: &Prefix, port: &HostPort, address: &IpNetwork, nat: &mut String, rdr: &mut String) {
    let family = if address.is_ipv4() { "inet" } else { "inet6" };
    // By number: for a name pfctl reads /etc/nsswitch.conf and /etc/protocols, which doubles its run time.
    let (protocol, from, to) = (port.protocol.number(), port.host_port, port.container_port);
    let (pod, tag) = (address.ip(), root(prefix));
    let on = port.only_on().map_or_else(|| "(self)".to_owned(), |host_ip| host_ip.to_string());
    // The listener serves the node's own connections: an answer from the pod would not return by lo0.
    let _ = writeln!(rdr, "no rdr on lo0 {family} proto {protocol} from any to any port {from}");
    let _ = writeln!(rdr, "rdr {family} proto {protocol} from any to {on} port {from} tag {tag} -> {pod} port {to}");
    // Without this, a pod (also the pod itself) would get the answer from the pod's address instead of the one it
    // called. The pod sees the gateway as the caller. The tag marks redirected connections.
    let gateway = crate::ipam::gateway(address).ip();
    let network = plain(address);
    let _ = writeln!(nat, "nat {family} proto {protocol} from {network} to {pod} port {to} tagged {tag} -> {gateway}");
}

/// Returns the remedy in `cellblock check` for missing lines.
#[must_use]
pub fn remedy(missing: &[String]) -> String {
    let lines = missing.join("\n");
    format!("add to /etc/pf.conf, before its filter rules:\n{lines}\nthen run: service pf reload")
}

#[cfg(test)]
mod tests {
    use host::{PodId, Prefix};
    use ipnetwork::IpNetwork;

    use super::{exhausted_limit, is_enabled, missing_lines, node, pod, pods_of, states_to};
    use crate::{Firewall, HostPort, NetworkSpec, Protocol};

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// As pfctl of FreeBSD 15.1 printed it.
    const NAT: &str = "nat-anchor \"cellblock/*\" all\nnat on em0 inet from <x> to any -> (em0) round-robin\nrdr-anchor \"cellblock/*\" all\n";

    #[test]
    fn the_lines_that_are_missing_are_named() {
        let both = ["nat-anchor \"cellblock/*\"", "rdr-anchor \"cellblock/*\""];
        let cases: &[(&str, &[&str])] = &[
            (NAT, &[]),
            ("nat-anchor \"*\" all\nrdr-anchor \"*\" all\n", &[]),
            ("", &both),
            ("nat-anchor \"cellblock/*\" all\n", &both[1..]),
            ("nat-anchor \"cellblock\" all\nrdr-anchor \"cellblock/*\" on em0 all\n", &both),
        ];
        for (printed, expected) in cases {
            assert_eq!(missing_lines(&Prefix::default(), printed), *expected, "{printed}");
        }
        let other: Prefix = "cc".parse().unwrap();
        assert_eq!(missing_lines(&other, NAT)[0], "nat-anchor \"cellblock-cc/*\"");
    }

    #[test]
    fn filter_rules_are_heard_after_what_blocks_everything() {
        use super::Filter::{Blocked, Heard, Unnamed};
        let cases = [
            ("", Unnamed),
            ("pass all flags S/SA keep state\n", Unnamed),
            ("block drop in quick from <bad> to any\n", Unnamed),
            ("block drop in all\n", Blocked),
            ("block return all\npass out all flags S/SA keep state\n", Blocked),
            ("block drop in log all\nanchor \"cellblock/*\" all\n", Heard),
            ("block drop all\nanchor \"*\" all\nblock drop in on em0 proto tcp from any to any port = 22\n", Heard),
            ("anchor \"cellblock/*\" all\nblock drop in all\n", Blocked),
            ("block drop all\nanchor \"cellblock\" all\n", Blocked),
        ];
        for (printed, expected) in cases {
            assert_eq!(super::filter(&Prefix::default(), printed), expected, "{printed}");
        }
    }

    #[test]
    fn pfctl_is_read() {
        assert!(is_enabled("Status: Enabled for 0 days 00:00:04           Debug: Urgent\n"));
        assert!(!is_enabled("Status: Disabled for 0 days 00:01:19          Debug: Urgent\n"));
        let id = PodId::random();
        let other = PodId::random();
        let anchors = format!("  cellblock/{}\n  cellblock/node\n  cellblock-cc/{}\n", id.short(), other.short());
        assert_eq!(pods_of(&Prefix::default(), &anchors), [id.short()]);
    }

    #[test]
    fn the_states_towards_an_address_are_found() {
        // As pfctl of FreeBSD 15.1 printed it.
        let printed = "\
all tcp 10.77.0.3:80 (192.0.2.1:8080) <- 192.0.2.2:36814       ESTABLISHED:ESTABLISHED
   [987717236 + 65535]  [39605419 + 65535]
   age 00:01:23, expires in 00:00:10, 2349:1216 pkts, 3411380:55707 bytes, anchor 0, rule 2
   id: 3a1d0c6b00000000 creatorid: ef9eb970
   origif: vtnet0
all udp 10.77.0.1:14901 -> 10.77.0.3:80       SINGLE:NO_TRAFFIC
   age 00:00:00, expires in 00:01:00, 1:1 pkts, 31:59 bytes, anchor 5, rule 7
   id: 481d0c6b00000000 creatorid: ef9eb970
all udp 192.0.2.1:6100 (10.77.0.3:53) -> 192.0.2.2:53       MULTIPLE:SINGLE
   id: 4a1d0c6b00000000 creatorid: ef9eb970
all udp fd00:77::1[19065] -> fd00:77::3[80]       SINGLE:NO_TRAFFIC
   id: 491d0c6b00000000 creatorid: ef9eb970
all icmp 10.77.0.3:8 <- 10.77.0.2:8       0:0
   id: 4b1d0c6b00000000 creatorid: ef9eb970
";
        let find = |text: &str| states_to(&[text.parse().unwrap()], printed);
        let of_pod = ["3a1d0c6b00000000/ef9eb970", "481d0c6b00000000/ef9eb970", "4b1d0c6b00000000/ef9eb970"];
        assert_eq!(find("10.77.0.3"), of_pod);
        assert_eq!(find("fd00:77::3"), ["491d0c6b00000000/ef9eb970"]);
        assert_eq!(find("10.77.0.30"), Vec::<String>::new());
    }

    #[test]
    fn an_anchor_that_cannot_be_had_is_told_from_rules_that_cannot_be() {
        let limits =
            "states        hard limit   100000\ntable-entries hard limit   200000\nanchors       hard limit        3\n";
        // As pfctl of FreeBSD 15.1 said it.
        let said = "pfctl: pfctl_rules\n";
        assert_eq!(exhausted_limit(limits, said), Some(3));
        assert_eq!(
            exhausted_limit(limits, "stdin:1: syntax error\npfctl: Syntax error in config file: pf rules not loaded"),
            None
        );
        assert_eq!(exhausted_limit("anchors       hard limit        0\n", said), None, "there is no limit");
        assert_eq!(exhausted_limit("states        hard limit   100000\n", said), None, "FreeBSD 14 has no such limit");
    }

    #[test]
    fn what_leaves_the_pods_is_translated_on_each_interface() {
        let interfaces = [("em0".to_owned(), true, false), ("em1".to_owned(), true, true)];
        let text = node(
            &Prefix::default(),
            &networks(&["10.1.2.3/16", "fd00::/64"]),
            &["10.1.0.7".parse().unwrap()],
            &networks(&["10.96.0.0/12"]),
            &interfaces,
        );
        let expected = "\
table <pods> { 10.1.0.0/16 fd00::/64 }
table <translated> { 10.1.0.0/16 fd00::/64 !10.1.0.7 }
table <direct> { 10.1.0.0/16 fd00::/64 10.96.0.0/12 224.0.0.0/4 ff00::/8 }
nat on em0 inet from <translated> to ! <direct> -> (em0:0)
nat on em1 inet from <translated> to ! <direct> -> (em1:0)
nat on em1 inet6 from <translated> to ! <direct> -> (em1:0)
block drop in quick on cbpods inet from urpf-failed to any
block drop out quick on cbpods inet proto 1 all icmp-type 5
block drop in quick on cbpods inet6 from urpf-failed to any
block drop out quick on cbpods inet6 proto 58 all icmp6-type 137
pass in on cbpods from <pods> to any ! tagged cellblock tag cellblock-pods
pass in from <direct> to <pods>
pass in tagged cellblock
pass out on cbpods
pass out tagged cellblock-pods
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_pod_has_rules_for_its_ports() {
        let port = |protocol, host_ip: Option<&str>, host_port| HostPort {
            protocol,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
        };
        let mut spec = NetworkSpec {
            id: PodId::random(),
            addresses: networks(&["10.1.0.5/16", "fd00::5/64"]),
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: Vec::new(),
            firewall: Firewall::Open,
        };
        assert_eq!(pod(&Prefix::default(), &spec), None);
        spec.host_ports = vec![
            port(Protocol::Tcp, None, 8080),
            port(Protocol::Udp, Some("192.0.2.1"), 53),
            port(Protocol::Tcp, Some("127.0.0.1"), 81),
        ];
        let expected = "\
nat inet proto 6 from 10.1.0.0/16 to 10.1.0.5 port 80 tagged cellblock -> 10.1.0.1
nat inet proto 17 from 10.1.0.0/16 to 10.1.0.5 port 80 tagged cellblock -> 10.1.0.1
nat inet6 proto 6 from fd00::/64 to fd00::5 port 80 tagged cellblock -> fd00::1
no rdr on lo0 inet proto 6 from any to any port 8080
rdr inet proto 6 from any to (self) port 8080 tag cellblock -> 10.1.0.5 port 80
no rdr on lo0 inet proto 17 from any to any port 53
rdr inet proto 17 from any to 192.0.2.1 port 53 tag cellblock -> 10.1.0.5 port 80
no rdr on lo0 inet6 proto 6 from any to any port 8080
rdr inet6 proto 6 from any to (self) port 8080 tag cellblock -> fd00::5 port 80
";
        assert_eq!(pod(&Prefix::default(), &spec).unwrap(), expected);
    }

    #[test]
    fn a_firewall_blocks_what_is_not_tagged() {
        let mut spec = NetworkSpec {
            id: "ab".repeat(32).parse().unwrap(),
            addresses: networks(&["10.1.0.5/16"]),
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: Vec::new(),
            firewall: Firewall::Isolated,
        };
        let end = crate::names::host_end(&Prefix::default(), &spec.id);
        assert_eq!(pod(&Prefix::default(), &spec).unwrap(), format!("block drop out quick on {end} all\n"));
        spec.firewall = Firewall::Ports(vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
        let expected = format!(
            "\
pass out on {end} proto 6 from any to any port 80 tag cellblock-open
pass out on {end} proto 17 from any to any port 53 tag cellblock-open
block drop out quick on {end} all ! tagged cellblock-open
"
        );
        assert_eq!(pod(&Prefix::default(), &spec).unwrap(), expected);
    }
}
