//! The FreeBSD backend: a bridge with the gateway addresses, an epair per pod with its inner end in the pod's vnet, and
//! pf for translation and host ports. ioctl(2) and netlink(4) configure interfaces, addresses and routes; pf has no
//! stable interface but pfctl(8). The host's end has the whole id as its description.

mod ipfw;
mod lent;
mod pair;
mod pfctl;
mod route;
mod sys;
mod tcp;
mod vnet;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::run::Tool;
use host::{Need, Place, PodId};
use ipnetwork::IpNetwork;

pub(crate) use self::vnet::main as vnet_main;
use self::vnet::{Entry, Vnet};
use crate::hostport::Reach;
use crate::node::{self, INTERFACE, Node};
use crate::pf::rules;
use crate::repair::{self, Inventory, Missing, Watched};
use crate::{Attachment, Counters, Error, Firewall, Network, NetworkSpec, Settings, ipam, names};

/// The backend's name in errors.
const BACKEND: &str = "freebsd";
/// `AF_NETLINK`, sys/socket.h; the libc crate has neither.
const AF_NETLINK: i32 = 38;
/// `NETLINK_ROUTE`, netlink/netlink.h.
const NETLINK_ROUTE: i32 = 0;
/// Flags of neighbour discovery, netinet6/nd6.h. Set: no duplicate address detection (the server assigns the addresses,
/// and detection costs a second), a link-local address. Clear: router advertisements, IPv6 disabled.
const ND6_SET: u32 = 0x100 | 0x20;
const ND6_CLEAR: u32 = 0x2 | 0x8;
/// IPv4 or not, the sysctl, and the command that enables it permanently.
const FORWARDING: [(bool, &str, &str); 2] = [
    (true, "net.inet.ip.forwarding", "sysrc gateway_enable=YES"),
    (false, "net.inet6.ip6.forwarding", "sysrc ipv6_gateway_enable=YES"),
];

pub(crate) fn open(settings: Settings) -> Result<Arc<dyn Network>, Error> {
    let node = Node::open(settings, Reach::Node)?;
    let (loaded, prepared, opened) = (Mutex::default(), Mutex::default(), Mutex::default());
    Ok(Arc::new(FreebsdNetwork { node, loaded, prepared, opened }))
}

struct FreebsdNetwork {
    node: Node,
    /// The shared rules as they were loaded last; None: not yet, since pf may start after the server.
    loaded: Mutex<Option<String>>,
    /// Sockets of spares made by this server. An open one keeps the jail from being removed.
    prepared: Mutex<HashMap<PodId, Vnet>>,
    /// The module of ipfw that all pods' vnets were taken out of.
    opened: Mutex<Option<i32>>,
}

impl Network for FreebsdNetwork {
    fn needs(&self) -> Vec<Need> {
        let networks = self.node.networks();
        let mut needs = pfctl::needs(&self.node.settings.prefix);
        needs.extend(ipfw::need(&self.node.settings.prefix));
        if !networks.is_empty() {
            let missing = open_node_vnet().and_then(|vnet| self.missing_shared(&vnet, &[]));
            needs.push(repair::need(&missing.unwrap_or_default()));
        }
        for (ipv4, name, line) in FORWARDING {
            // IPv4 is assumed before the pod networks are known.
            if networks.is_empty() && ipv4 || networks.iter().any(|network| network.is_ipv4() == ipv4) {
                needs.push(forwarding_need(name, line));
            }
        }
        needs
    }

    fn configure(&self, pod_networks: &[IpNetwork]) -> Result<(), Error> {
        ipam::check(pod_networks)?;
        let vnet = open_node_vnet()?;
        self.add_bridge(&vnet, pod_networks)?;
        self.node.set_networks(pod_networks);
        // Without pf the bridge still works; `needs` reports what is missing.
        if pfctl::is_loaded() {
            self.load_node_rules(&vnet)?;
        }
        self.reconcile(&self.node.state.pods()?).map(drop)
    }

    fn attach(&self, spec: &NetworkSpec, place: &Place, spare: Option<&PodId>) -> Result<Attachment, Error> {
        let _changing = self.node.change();
        let before = self.node.reserve(spec, place)?;
        let Some(jail) = jail(place)? else {
            return Ok(Attachment { host_interface: None, addresses: Vec::new() });
        };
        let vnet = open_node_vnet()?;
        // pfctl takes as long as all the rest, and creating a pair waits for the kernel: rules and listener start in
        // parallel.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new;
            let rules = thread().spawn_scoped(scope, || self.apply_rules(&open_node_vnet()?, before.as_ref(), spec));
            let rules = rules.map_err(Error::failed("cannot start a thread"))?;
            let listen = || self.node.listen(spec);
            let listener = spare.is_none().then(|| thread().spawn_scoped(scope, listen));
            let wired = self.wire(&vnet, jail, spec, spare);
            let listening = match listener {
                Some(Ok(listener)) => listener.join().expect("starting a listener does not panic"),
                Some(Err(error)) => Err(Error::failed("cannot start a thread")(error)),
                None => listen(),
            };
            let ruled = rules.join().expect("loading rules does not panic");
            node::run_all(&format!("cannot attach pod {}", spec.id), [wired, ruled, listening])
        })?;
        Ok(self.node.attachment(spec))
    }

    fn prepare(&self, spare: &PodId, place: &Place) -> Result<(), Error> {
        let Some(jail) = jail(place)? else { return Ok(()) };
        self.node.state.add(spare)?;
        let mut inside = Entry::begin(&self.node.settings.workers, jail)?;
        pair::make(&self.node, &open_node_vnet()?, &mut inside, jail, spare)?;
        let inside = inside.into_vnet()?;
        bring_up_loopback(&inside)?;
        self.prepared().insert(spare.clone(), inside);
        Ok(())
    }

    fn detach(&self, id: &PodId, place: Option<&Place>) -> Result<(), Error> {
        let _changing = self.node.change();
        let settings = &self.node.settings;
        self.prepared().remove(id);
        let drop = match place {
            Some(Place::Jail(name)) => vnet::drop_connections(&settings.workers, name),
            _ => Ok(()),
        };
        let steps = [
            self.node.stop_listening(id),
            self.remove_rules(id),
            drop,
            lent::take_back(&self.node, id),
            pair::remove(&self.node, id),
        ];
        // The record goes last, and only after every step succeeded.
        node::run_all(&format!("cannot detach pod {id}"), steps)?;
        self.node.forget(id)
    }

    fn counters(&self, id: &PodId) -> Result<Counters, Error> {
        let name = self.node.host_end(id);
        let link = open_node_vnet()?.links.find(&name).map_err(Error::failed(format!("cannot look up {name}")))?;
        node::counters(id, link)
    }

    fn all_counters(&self) -> Result<BTreeMap<PodId, Counters>, Error> {
        self.node.counters_in(open_node_vnet()?.links.list().map_err(Error::failed("cannot list the interfaces"))?)
    }

    fn inventory(&self) -> Result<Vec<PodId>, Error> {
        let prefix = &self.node.settings.prefix;
        let links = open_node_vnet()?.links.list().map_err(Error::failed("cannot list the interfaces"))?;
        let mut ids = self.node.state.pods()?;
        let ends = links.iter().map(|link| (link.name.as_str(), link.alias.as_str()));
        names::add_from_interfaces(&mut ids, prefix, ends);
        pfctl::pods(prefix)?.iter().for_each(|short| names::add_short(&mut ids, short));
        Ok(ids)
    }

    fn whole_pods(&self) -> Result<BTreeSet<PodId>, Error> {
        self.node.whole_pods(&open_node_vnet()?.links.list().map_err(Error::failed("cannot list the interfaces"))?)
    }

    fn reconcile(&self, pods: &[PodId]) -> Result<Vec<String>, Error> {
        let networks = self.node.networks();
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let (vnet, pods) = (open_node_vnet()?, self.node.watched(pods));
        let mut missing = self.missing_shared(&vnet, &pods)?;
        let prefix = &self.node.settings.prefix;
        let anchored = pfctl::pods(prefix)?;
        missing.extend(self.node.missing_of(&pods, |pod| {
            rules::pod(prefix, pod).is_none()
                || !pfctl::is_loaded()
                || anchored.iter().any(|short| short == pod.id.short())
        })?);
        let restored = missing.iter().map(|part| match part {
            Missing::Bridge(_) | Missing::Gateway(_) => self.add_bridge(&vnet, &networks),
            Missing::NodeRules => self.load_node_rules(&vnet),
            Missing::Route(id, _) => self.node.restore(&pods, id, |pod| route_to_pod(&vnet, &pod.interface, &pod.spec)),
            Missing::PodRules(id) => self.node.restore(&pods, id, |pod| self.apply_rules(&vnet, None, &pod.spec)),
            Missing::Listener(id) => self.node.restore(&pods, id, |pod| self.node.listen(&pod.spec)),
        });
        let opened = self.open_vnets(&pods);
        let mut names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        names.extend(opened.as_ref().ok().cloned().flatten());
        node::run_all("cannot restore the network", restored.chain([opened.map(drop)]))?;
        Ok(names)
    }

    fn changes(&self) -> Result<OwnedFd, Error> {
        route::subscribe().map_err(Error::failed("cannot subscribe to changes of the network"))
    }

    fn unconfigure(&self) -> Result<(), Error> {
        node::check_unused(&self.inventory()?)?;
        let prefix = &self.node.settings.prefix;
        let bridge = names::bridge(prefix);
        let vnet = open_node_vnet()?;
        let flush = if pfctl::is_loaded() { pfctl::flush(&rules::node_anchor(prefix), true) } else { Ok(()) };
        let removed = pair::destroy(&vnet, &bridge);
        self.node.set_networks(&[]);
        *self.loaded() = None;
        node::run_all("cannot remove the node's network", [flush, removed])
    }
}

impl FreebsdNetwork {
    fn prepared(&self) -> MutexGuard<'_, HashMap<PodId, Vnet>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the pod's jail its interface, addresses and routes; takes over the spare's interface if there is one.
    fn wire(&self, vnet: &Vnet, jail: &str, spec: &NetworkSpec, spare: Option<&PodId>) -> Result<(), Error> {
        let settings = &self.node.settings;
        let mut inside = match spare.and_then(|spare| self.prepared().remove(spare)) {
            Some(inside) => inside.into(),
            None => Entry::begin(&settings.workers, jail)?,
        };
        match spare {
            Some(spare) if !pair::is_whole(vnet, &mut inside, &settings.prefix, &spec.id)? => {
                pair::adopt(&self.node, vnet, inside.vnet()?, spare, &spec.id)?;
            }
            _ => pair::make(&self.node, vnet, &mut inside, jail, &spec.id)?,
        }
        bring_up_loopback(inside.vnet()?)?;
        configure_inside(inside.vnet()?, spec)?;
        if let Some(lent) = &spec.lent {
            lent::give(vnet, inside.vnet()?, jail, lent)?;
        }
        route_to_pod(vnet, &self.node.host_end(&spec.id), spec)
    }

    /// Takes these pods' vnets out of ipfw if it was loaded since the last time; returns what was done. Idempotent.
    fn open_vnets(&self, pods: &[Watched]) -> Result<Option<String>, Error> {
        let module = ipfw::module();
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if *opened == module {
            return Ok(None);
        }
        // A spare's sockets say that it was entered before: it is entered anew.
        self.prepared().clear();
        let workers = &self.node.settings.workers;
        let open = |pod: &Watched| match Entry::begin(workers, &names::pod(&self.node.settings.prefix, &pod.spec.id)) {
            // `whole_pods` and the runtime tell of a pod that is gone.
            Err(Error::NotFound { .. }) => Ok(()),
            entry => entry?.vnet().map(drop),
        };
        if module.is_some() {
            let own = pods.iter().filter(|pod| !pod.spec.addresses.is_empty());
            node::run_all("cannot take the pods out of ipfw", own.map(open))?;
        }
        *opened = module;
        Ok(module.map(|_| "the pods' networks, which ipfw closed".to_owned()))
    }

    /// Creates the bridge, which holds the gateways' addresses, and brings it up. Idempotent.
    fn add_bridge(&self, vnet: &Vnet, networks: &[IpNetwork]) -> Result<(), Error> {
        let settings = &self.node.settings;
        let name = &*names::bridge(&settings.prefix);
        let failed = || format!("cannot create bridge {name}");
        let find = || vnet.links.find(name).map_err(Error::failed(failed()));
        if find()?.is_none() {
            load_modules(&["if_bridge", "if_epair"])?;
            let made = sys::create(&vnet.inet, "bridge").map_err(Error::failed(failed()))?;
            sys::rename(&vnet.inet, &made, name).map_err(Error::failed(failed()))?;
        }
        let index = find()?.ok_or_else(|| Error::NotFound { what: format!("bridge {name}") })?.index;
        let links = &vnet.links;
        links
            .set_mac(index, names::bridge_mac(&settings.prefix))
            .and_then(|()| links.set_mtu(index, settings.mtu))
            .and_then(|()| links.bring_up(index))
            .map_err(Error::failed(failed()))?;
        add_addresses(vnet, name, index, &networks.iter().map(ipam::gateway).collect::<Vec<_>>())
    }

    fn loaded(&self) -> MutexGuard<'_, Option<String>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the shared rules.
    fn load_node_rules(&self, vnet: &Vnet) -> Result<(), Error> {
        // Locked while they are written, so that older ones never replace newer ones.
        let mut loaded = self.loaded();
        let rules = self.node_rules(vnet)?;
        pfctl::load(&rules::node_anchor(&self.node.settings.prefix), &rules)?;
        *loaded = Some(rules);
        Ok(())
    }

    /// Returns what is missing of the shared parts and the routes to these pods. Without pf no rules are missing: `needs` says
    /// that pf is.
    fn missing_shared(&self, vnet: &Vnet, pods: &[Watched]) -> Result<Vec<Missing>, Error> {
        let prefix = &self.node.settings.prefix;
        let gateways: Vec<IpNetwork> = self.node.networks().iter().map(ipam::gateway).collect();
        let bridge = names::bridge(prefix);
        let inventory = Inventory::read(&vnet.links, &bridge, pods)?;
        let mut missing = repair::missing(&bridge, &gateways, pods, &inventory);
        if pfctl::is_loaded() {
            let known = Some(self.node_rules(vnet)?) == *self.loaded();
            if !known || !pfctl::has_rules(&rules::node_anchor(prefix))? {
                missing.push(Missing::NodeRules);
            }
        }
        Ok(missing)
    }

    /// Returns the shared rules for the pod networks and the former networks of pods, and for the node's addresses of now.
    fn node_rules(&self, vnet: &Vnet) -> Result<String, Error> {
        let settings = &self.node.settings;
        let pods = self.node.state.specs()?;
        let networks = ipam::with_former(&self.node.networks(), pods.iter().flat_map(|pod| &pod.addresses));
        let interfaces = list_uplinks(vnet, &names::bridge(&settings.prefix))?;
        let kept: Vec<IpAddr> = pods.iter().filter(|pod| !pod.is_translated()).flat_map(addresses_of).collect();
        Ok(rules::node(&settings.prefix, &networks, &kept, &settings.untranslated, &interfaces))
    }

    /// Loads the pod's anchor, or flushes one that it no longer needs.
    fn apply_rules(&self, vnet: &Vnet, before: Option<&NetworkSpec>, spec: &NetworkSpec) -> Result<(), Error> {
        let prefix = &self.node.settings.prefix;
        let unloaded = self.loaded().is_none();
        if unloaded || !spec.is_translated() || before.is_some_and(|before| !before.is_translated()) {
            // The shared rules name the pods that are not translated: this one's spec is recorded already.
            self.load_node_rules(vnet)?;
        }
        let anchor = rules::pod_anchor(prefix, &spec.id);
        if spec.firewall != Firewall::Open {
            pfctl::check_filter(prefix)?;
        }
        match rules::pod(prefix, spec) {
            Some(rules) => {
                pfctl::load(&anchor, &rules)?;
                if node::closes(spec, before) {
                    pfctl::forget_states(&addresses_of(spec).collect::<Vec<_>>())?;
                }
                Ok(())
            }
            None if before.is_some_and(|before| rules::pod(prefix, before).is_some()) => pfctl::flush(&anchor, false),
            None => Ok(()),
        }
    }

    /// Removes the pod's anchor and states. A pod without a record may have them too. Idempotent.
    fn remove_rules(&self, id: &PodId) -> Result<(), Error> {
        let prefix = &self.node.settings.prefix;
        let read = self.node.state.load(id);
        let is_spare = matches!(read, Ok(None)) && self.node.state.directory_of(id).exists();
        // An unreadable record counts as none: the id alone names the anchor.
        let known = read.ok().flatten();
        if is_spare || !pfctl::is_loaded() {
            return Ok(());
        }
        if known.as_ref().is_some_and(|known| rules::pod(prefix, known).is_none()) {
            return Ok(());
        }
        pfctl::flush(&rules::pod_anchor(prefix, id), false)?;
        let exposed = known.filter(|known| !known.host_ports.is_empty());
        exposed.map_or(Ok(()), |pod| pfctl::forget_states(&addresses_of(&pod).collect::<Vec<_>>()))
    }
}

fn addresses_of(pod: &NetworkSpec) -> impl Iterator<Item = IpAddr> {
    pod.addresses.iter().map(IpNetwork::ip)
}

/// Lists the interfaces that lead out of the node, with whether they have IPv4 and IPv6 addresses: all with an address,
/// except lo0 and the pods' bridge.
fn list_uplinks(vnet: &Vnet, bridge: &str) -> Result<Vec<(String, bool, bool)>, Error> {
    let failed = || "cannot list the addresses of the node";
    let addresses = vnet.links.addresses().map_err(Error::failed(failed()))?;
    let links = vnet.links.list().map_err(Error::failed(failed()))?;
    let has = |index: u32, ipv4: bool| {
        addresses.iter().any(|(of, address)| {
            let link_local = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            *of == index && address.is_ipv4() == ipv4 && !address.ip().is_loopback() && !link_local
        })
    };
    let uplinks = links.iter().filter(|link| link.name != bridge);
    let uplinks = uplinks.map(|link| (link.name.clone(), has(link.index, true), has(link.index, false)));
    Ok(uplinks.filter(|(_, ipv4, ipv6)| *ipv4 || *ipv6).collect())
}

/// Adds missing addresses; adding an existing one again would remove it for a moment. Idempotent.
fn add_addresses(vnet: &Vnet, name: &str, index: u32, addresses: &[IpNetwork]) -> Result<(), Error> {
    if addresses.iter().any(IpNetwork::is_ipv6) {
        sys::set_nd6_flags(&vnet.inet6, name, ND6_SET, ND6_CLEAR)
            .map_err(Error::failed(format!("cannot switch IPv6 on for {name}")))?;
    }
    let present = vnet.links.addresses().map_err(Error::failed(format!("cannot list the addresses of {name}")))?;
    for address in addresses.iter().filter(|address| !present.contains(&(index, **address))) {
        vnet.links
            .add_address(index, address)
            .map_err(Error::failed(format!("cannot give {name} the address {address}")))?;
    }
    Ok(())
}

/// Brings up lo0, which a new vnet leaves down and without addresses. Idempotent.
fn bring_up_loopback(inside: &Vnet) -> Result<(), Error> {
    let index = inside.index("lo0")?;
    inside.links.bring_up(index).map_err(Error::failed("cannot bring up lo0"))?;
    let addresses: [IpNetwork; 2] = [
        IpNetwork::V4("127.0.0.1/8".parse().expect("it is a network")),
        IpNetwork::V6("::1/128".parse().expect("it is a network")),
    ];
    add_addresses(inside, "lo0", index, &addresses)
}

/// Brings up eth0 and gives it exactly the addresses and routes of the spec. Idempotent.
fn configure_inside(inside: &Vnet, spec: &NetworkSpec) -> Result<(), Error> {
    let index = inside.index(INTERFACE)?;
    inside.links.bring_up(index).map_err(Error::failed("cannot bring up eth0"))?;
    let present = inside.links.addresses().map_err(Error::failed("cannot list the addresses of eth0"))?;
    let own: Vec<IpNetwork> = spec.addresses.iter().map(node::alone).collect();
    for (_, address) in present.iter().filter(|(of, address)| *of == index && !own.contains(address)) {
        if matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            continue;
        }
        inside.links.remove_address(index, address).map_err(Error::failed(format!("cannot remove {address}")))?;
    }
    add_addresses(inside, INTERFACE, index, &own)?;
    for address in &spec.addresses {
        let gateway = ipam::gateway(address).ip();
        inside
            .links
            .add_host_route(index, gateway, None)
            .and_then(|()| inside.links.add_neighbour(index, gateway, names::host_mac(&spec.id)))
            .and_then(|()| inside.links.add_route(index, &node::reach(address, spec.route), gateway))
            .map_err(Error::failed(format!("cannot route pod {} by {gateway}", spec.id)))?;
    }
    Ok(())
}

/// Routes a pod's addresses to the host's end of its interface. Idempotent.
fn route_to_pod(vnet: &Vnet, name: &str, spec: &NetworkSpec) -> Result<(), Error> {
    let index = vnet.index(name)?;
    vnet.links.bring_up(index).map_err(Error::failed(format!("cannot bring up {name}")))?;
    if spec.addresses.iter().any(IpNetwork::is_ipv6) {
        sys::set_nd6_flags(&vnet.inet6, name, ND6_SET, ND6_CLEAR)
            .map_err(Error::failed(format!("cannot switch IPv6 on for {name}")))?;
    }
    for address in &spec.addresses {
        route::set(address.ip(), index, ipam::gateway(address).ip())
            .and_then(|()| vnet.links.add_neighbour(index, address.ip(), names::pod_mac(&spec.id)))
            .map_err(Error::failed(format!("cannot route {} to {name}", address.ip())))?;
    }
    Ok(())
}

fn forwarding_need(name: &str, line: &str) -> Need {
    let value = sys::sysctl(name, 4).unwrap_or_default();
    let on = value.first_chunk::<4>().is_some_and(|value| i32::from_ne_bytes(*value) != 0);
    Need {
        name: format!("forwarding ({name})"),
        found: if on { "on" } else { "off" }.to_owned(),
        required: true,
        remedy: (!on).then(|| format!("run: sysctl {name}=1; {line}")),
    }
}

fn jail(place: &Place) -> Result<Option<&str>, Error> {
    match place {
        Place::Jail(name) => Ok(Some(name)),
        Place::Host => Ok(None),
        Place::Netns(path) => {
            Err(Error::Unsupported { what: format!("network namespace {}", path.display()), backend: BACKEND })
        }
    }
}

fn open_node_vnet() -> Result<Vnet, Error> {
    Vnet::open_node().map_err(Error::failed("cannot open sockets"))
}

/// Loads kernel modules, as ifconfig(8) does. -n ignores loaded and built-in ones.
fn load_modules(modules: &[&str]) -> Result<(), Error> {
    let tool = Tool::new("/sbin/kldload").args(["-n"]).args(modules);
    tool.run().map_err(Error::failed(format!("cannot load {}", modules.join(" and "))))?;
    Ok(())
}
