//! What is missing of the node's network: a pure comparison of what was made with what the kernel holds. The backends read the
//! kernel, add what only they know (rulesets), and restore the parts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use host::{Need, PodId};
use ipnetwork::IpNetwork;

use crate::links::{Link, Links};
use crate::{Error, NetworkSpec};

/// A part of the network that the kernel has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The bridge, or it is down.
    Bridge(String),
    /// An address of the bridge.
    Gateway(IpNetwork),
    /// The shared rules.
    NodeRules,
    /// The route to a pod's address, which leads to another interface or nowhere.
    Route(PodId, IpAddr),
    /// A pod's rules.
    PodRules(PodId),
    /// The process that answers for a pod's host ports.
    Listener(PodId),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge(name) => write!(f, "interface {name}"),
            Self::Gateway(address) => write!(f, "address {address}"),
            Self::NodeRules => write!(f, "the rules of the node"),
            Self::Route(id, address) => write!(f, "the route to {address} of pod {}", id.short()),
            Self::PodRules(id) => write!(f, "the rules of pod {}", id.short()),
            Self::Listener(id) => write!(f, "the listener of pod {}", id.short()),
        }
    }
}

/// A pod whose network is to be whole.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) spec: NetworkSpec,
    /// The host's end of its interface.
    pub(crate) interface: String,
    /// Whether the host routes its addresses there. Pods of older servers are on the bridge.
    pub(crate) routed: bool,
}

/// What the kernel holds.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<(u32, IpNetwork)>,
    /// The index of the interface that leads to a pod's address.
    pub(crate) routes: BTreeMap<IpAddr, u32>,
}

impl Inventory {
    /// Reads the bridge, the addresses, and the interfaces of these pods with the routes to them. Without pods the other
    /// interfaces, of which each pod has one, are not listed.
    pub(crate) fn read(links: &Links, bridge: &str, pods: &[Watched]) -> Result<Self, Error> {
        let failed = || "cannot read the node's network";
        let mut routes = BTreeMap::new();
        for address in pods.iter().filter(|pod| pod.routed).flat_map(|pod| &pod.spec.addresses) {
            let interface = links.route_to(address.ip()).map_err(Error::failed(failed()))?;
            routes.extend(interface.map(|interface| (address.ip(), interface)));
        }
        Ok(Self {
            links: if pods.is_empty() { links.find(bridge).map(Vec::from_iter) } else { links.list() }
                .map_err(Error::failed(failed()))?,
            addresses: links.addresses().map_err(Error::failed(failed()))?,
            routes,
        })
    }
}

/// Returns what is missing of the bridge, its addresses and the routes to these pods. A pod without an interface has lost more
/// than a route: [`crate::Network::whole_pods`] tells.
pub(crate) fn missing(bridge: &str, gateways: &[IpNetwork], pods: &[Watched], inventory: &Inventory) -> Vec<Missing> {
    let find = |name: &str| inventory.links.iter().find(|link| link.name == name);
    let mut missing = Vec::new();
    let link = find(bridge);
    if !link.is_some_and(|link| link.up) {
        missing.push(Missing::Bridge(bridge.to_owned()));
    }
    let has = |gateway: &IpNetwork| link.is_some_and(|link| inventory.addresses.contains(&(link.index, *gateway)));
    missing.extend(gateways.iter().filter(|gateway| !has(gateway)).copied().map(Missing::Gateway));
    for pod in pods.iter().filter(|pod| pod.routed) {
        let Some(link) = find(&pod.interface) else { continue };
        let lost = pod.spec.addresses.iter().map(IpNetwork::ip);
        let lost = lost.filter(|address| !link.up || inventory.routes.get(address) != Some(&link.index));
        missing.extend(lost.map(|address| Missing::Route(pod.spec.id.clone(), address)));
    }
    missing
}

/// Returns the need for the shared parts.
pub(crate) fn need(missing: &[Missing]) -> Need {
    let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let whole = list.is_empty();
    let remedy = "the server restores it within seconds; if it does not, its log says why";
    Need {
        name: "the node's network".to_owned(),
        found: if whole { "whole".to_owned() } else { format!("missing: {}", list.join(", ")) },
        required: true,
        remedy: (!whole).then(|| remedy.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use host::PodId;

    use super::{Inventory, Missing, Watched, missing, need};
    use crate::NetworkSpec;
    use crate::links::Link;

    fn link(index: u32, name: &str, up: bool) -> Link {
        Link { index, name: name.to_owned(), up, ..Link::default() }
    }

    #[test]
    fn each_part_that_is_missing_is_named() {
        let id = PodId::random();
        let gateways = ["10.1.0.1/16".parse().unwrap(), "fd00::1/64".parse().unwrap()];
        let spec = NetworkSpec {
            id: id.clone(),
            addresses: vec!["10.1.0.5/16".parse().unwrap()],
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: Vec::new(),
            firewall: crate::Firewall::Open,
        };
        let pod = Watched { spec, interface: "cbo".to_owned(), routed: true };
        let pods = [pod.clone()];
        let address = "10.1.0.5".parse().unwrap();
        let whole = || Inventory {
            links: vec![link(1, "em0", true), link(2, "cbbr0", true), link(3, "cbo", true)],
            addresses: vec![(2, gateways[0]), (2, gateways[1])],
            routes: [(address, 3)].into(),
        };
        let find = |inventory: &Inventory, pods: &[Watched]| missing("cbbr0", &gateways, pods, inventory);
        assert_eq!(find(&whole(), &pods), []);
        let bridge = Missing::Bridge("cbbr0".to_owned());
        let [first, second] = gateways.map(Missing::Gateway);
        let route = Missing::Route(id, address);
        type Break = fn(&mut Inventory);
        let cases: [(Break, Vec<Missing>); 6] = [
            (|kernel| kernel.links.retain(|link| link.index != 2), vec![bridge.clone(), first, second.clone()]),
            (|kernel| kernel.links[1].up = false, vec![bridge]),
            (|kernel| kernel.addresses[1].0 = 1, vec![second]),
            (|kernel| kernel.routes.clear(), vec![route.clone()]),
            (|kernel| *kernel.routes.values_mut().next().unwrap() = 2, vec![route.clone()]),
            (|kernel| kernel.links[2].up = false, vec![route]),
        ];
        for (change, expected) in cases {
            let mut kernel = whole();
            change(&mut kernel);
            assert_eq!(find(&kernel, &pods), expected);
        }
        // A pod of an older server is on the bridge, and one without an interface is not routed in vain.
        let mut kernel = whole();
        kernel.routes.clear();
        assert_eq!(find(&kernel, &[Watched { routed: false, ..pod }]), []);
        kernel.links.pop();
        assert_eq!(find(&kernel, &pods), []);
    }

    #[test]
    fn the_need_says_what_is_missing() {
        assert!(need(&[]).holds());
        let broken = need(&[Missing::Gateway("10.1.0.1/16".parse().unwrap()), Missing::NodeRules]);
        assert_eq!(broken.found, "missing: address 10.1.0.1/16, the rules of the node");
        assert!(broken.required && !broken.holds());
    }
}
