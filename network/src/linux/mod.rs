//! The development backend: a bridge with the gateway addresses, a veth pair per pod with its inner end created in the
//! pod's namespace, and nftables for translation and host ports. The host's end has the whole id as its alias, since an
//! interface name has room for twelve digits only.

mod forwarding;
mod link;
mod netfilter;
mod netns;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use host::{Need, Place, PodId};
use ipnetwork::IpNetwork;

use self::link::Veth;
use self::netns::Inside;
use crate::hostport::Reach;
use crate::links::{Link, Links};
use crate::nft::rules::{self, Counts};
use crate::node::{self, INTERFACE, Node};
use crate::repair::{self, Inventory, Missing, Watched};
use crate::{Attachment, Counters, Error, Lent, Network, NetworkSpec, Settings, ipam, names};

/// The backend's name in errors.
const BACKEND: &str = "linux (development)";

pub(crate) fn open(settings: Settings) -> Result<Arc<dyn Network>, Error> {
    Ok(Arc::new(LinuxNetwork { node: Node::open(settings, Reach::Loopback)?, loaded: Mutex::default() }))
}

/// Linux has no such worker: EX_USAGE.
pub(crate) fn vnet_main(_args: &[OsString]) -> ExitCode {
    ExitCode::from(64)
}

struct LinuxNetwork {
    node: Node,
    /// The rules of the shared table as they were loaded last.
    loaded: Mutex<Counts>,
}

impl Network for LinuxNetwork {
    fn needs(&self) -> Vec<Need> {
        let networks = self.node.networks();
        let mut needs = vec![program_need()];
        needs.extend(forwarding::needs(&networks));
        if !networks.is_empty() {
            let missing = open_links().and_then(|links| self.missing_shared(&links, &[], &count_rules()?));
            needs.push(repair::need(&missing.unwrap_or_default()));
        }
        needs
    }

    fn configure(&self, pod_networks: &[IpNetwork]) -> Result<(), Error> {
        ipam::check(pod_networks)?;
        self.add_bridge(&open_links()?, pod_networks)?;
        forwarding::enable(&self.node.settings.state, pod_networks)?;
        self.load_node_rules(pod_networks)?;
        self.node.set_networks(pod_networks);
        self.reconcile(&self.node.state.pods()?).map(drop)
    }

    fn attach(&self, spec: &NetworkSpec, place: &Place, spare: Option<&PodId>) -> Result<Attachment, Error> {
        let _changing = self.node.change();
        let before = self.node.reserve(spec, place)?;
        let Some(netns) = netns(place)? else {
            return Ok(Attachment { host_interface: None, addresses: Vec::new() });
        };
        let inside = Inside::enter(netns)?;
        let links = open_links()?;
        let name = self.node.host_end(&spec.id);
        if find(&links, &name)?.is_none() {
            match spare {
                Some(spare) => self.adopt_spare(&links, &inside, spare, &spec.id)?,
                None => self.add_pair(&links, &inside, &spec.id)?,
            }
        }
        inside.bring_up_loopback()?;
        inside.configure(spec)?;
        if let Some(lent) = &spec.lent {
            inside.take(&links, lent)?;
        }
        route_to_pod(&links, &name, spec)?;
        self.apply_rules(before.as_ref(), spec)?;
        self.node.listen(spec)?;
        Ok(self.node.attachment(spec))
    }

    fn prepare(&self, spare: &PodId, place: &Place) -> Result<(), Error> {
        let Some(netns) = netns(place)? else { return Ok(()) };
        self.node.state.add(spare)?;
        let inside = Inside::enter(netns)?;
        let links = open_links()?;
        if find(&links, &self.node.host_end(spare))?.is_none() {
            self.add_pair(&links, &inside, spare)?;
        }
        inside.bring_up_loopback()
    }

    fn detach(&self, id: &PodId, place: Option<&Place>) -> Result<(), Error> {
        let _changing = self.node.change();
        let what = format!("cannot detach pod {id}");
        let before = self.node.state.load(id);
        let forget: Vec<IpAddr> = match &before {
            Ok(Some(network)) if !network.host_ports.is_empty() => {
                network.addresses.iter().map(IpNetwork::ip).collect()
            }
            _ => Vec::new(),
        };
        let steps = [
            self.node.stop_listening(id),
            self.remove_rules(id),
            give_back(place, before.as_ref().ok().and_then(|before| before.as_ref()?.lent.as_ref())),
            open_links().and_then(|links| links.remove(&self.node.host_end(id)).map_err(Error::failed(what.clone()))),
        ];
        for address in forget {
            if let Err(error) = netfilter::forget_connections(address) {
                tracing::warn!(%address, %error, "cannot remove the connections of a detached pod");
            }
        }
        // The record goes last, and only after every step succeeded.
        node::run_all(&what, steps)?;
        self.node.forget(id)
    }

    fn counters(&self, id: &PodId) -> Result<Counters, Error> {
        node::counters(id, find(&open_links()?, &self.node.host_end(id))?)
    }

    fn all_counters(&self) -> Result<BTreeMap<PodId, Counters>, Error> {
        self.node.counters_in(open_links()?.list().map_err(Error::failed("cannot list the interfaces"))?)
    }

    fn inventory(&self) -> Result<Vec<PodId>, Error> {
        let prefix = &self.node.settings.prefix;
        let links = open_links()?.list().map_err(Error::failed("cannot list the interfaces"))?;
        let tables = list_tables()?;
        let mut ids = self.node.state.pods()?;
        ids.extend(tables.iter().filter_map(|table| rules::pod_of_table(prefix, table)));
        let ends = links.iter().map(|link| (link.name.as_str(), link.alias.as_str()));
        names::add_from_interfaces(&mut ids, prefix, ends);
        Ok(ids)
    }

    fn whole_pods(&self) -> Result<BTreeSet<PodId>, Error> {
        self.node.whole_pods(&open_links()?.list().map_err(Error::failed("cannot list the interfaces"))?)
    }

    fn reconcile(&self, pods: &[PodId]) -> Result<Vec<String>, Error> {
        let networks = self.node.networks();
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        forwarding::enable(&self.node.settings.state, &networks)?;
        let (links, pods) = (open_links()?, self.node.watched(pods));
        let kernel = count_rules()?;
        let mut missing = self.missing_shared(&links, &pods, &kernel)?;
        let prefix = &self.node.settings.prefix;
        missing.extend(self.node.missing_of(&pods, |pod| {
            rules::pod(prefix, pod).is_none_or(|made| rules::has_all(&kernel, &rules::count(&made)))
        })?);
        let restored = missing.iter().map(|part| match part {
            Missing::Bridge(_) | Missing::Gateway(_) => self.add_bridge(&links, &networks),
            Missing::NodeRules => self.load_node_rules(&networks),
            Missing::Route(id, _) => {
                self.node.restore(&pods, id, |pod| route_to_pod(&links, &pod.interface, &pod.spec))
            }
            Missing::PodRules(id) => self.node.restore(&pods, id, |pod| self.apply_rules(None, &pod.spec)),
            Missing::Listener(id) => self.node.restore(&pods, id, |pod| self.node.listen(&pod.spec)),
        });
        node::run_all("cannot restore the network", restored)?;
        Ok(missing.iter().map(ToString::to_string).collect())
    }

    fn changes(&self) -> Result<OwnedFd, Error> {
        link::subscribe().map_err(Error::failed("cannot subscribe to changes of the network"))
    }

    fn unconfigure(&self) -> Result<(), Error> {
        node::check_unused(&self.inventory()?)?;
        let settings = &self.node.settings;
        let table = rules::node_table(&settings.prefix);
        let tables = list_tables()?;
        let others = tables.iter().any(|name| name.starts_with(rules::TABLES) && *name != table);
        let delete = if tables.contains(&table) {
            netfilter::apply("the removal of the node's table", &rules::delete_table(&table))
        } else {
            Ok(())
        };
        let bridge = names::bridge(&settings.prefix);
        let steps = [
            delete,
            open_links()?.remove(&bridge).map_err(Error::failed(format!("cannot remove bridge {bridge}"))),
            forwarding::restore(&settings.state, others),
        ];
        self.node.set_networks(&[]);
        node::run_all("cannot remove the node's network", steps)
    }
}

impl LinuxNetwork {
    /// Creates the bridge, which holds the gateways' addresses. Idempotent.
    fn add_bridge(&self, links: &Links, networks: &[IpNetwork]) -> Result<(), Error> {
        let settings = &self.node.settings;
        let bridge = names::bridge(&settings.prefix);
        let failed = || format!("cannot create bridge {bridge}");
        let mac = names::bridge_mac(&settings.prefix);
        let link = link::add_bridge(links, &bridge, mac, settings.mtu).map_err(Error::failed(failed()))?;
        for network in networks {
            let gateway = ipam::gateway(network);
            let failed = format!("cannot give bridge {bridge} the address {gateway}");
            links.add_address(link.index, &gateway).map_err(Error::failed(failed))?;
        }
        Ok(())
    }

    /// Loads the shared table, for the pod networks and the former networks of pods.
    fn load_node_rules(&self, networks: &[IpNetwork]) -> Result<(), Error> {
        let settings = &self.node.settings;
        let pods = self.node.state.specs()?;
        let networks = ipam::with_former(networks, pods.iter().flat_map(|pod| &pod.addresses));
        let ruleset = rules::node(&settings.prefix, &networks, &settings.untranslated);
        netfilter::apply("the ruleset of the node", &ruleset)?;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = rules::count(&ruleset);
        Ok(())
    }

    /// Returns what is missing of the shared parts and the routes to these pods.
    fn missing_shared(&self, links: &Links, pods: &[Watched], kernel: &Counts) -> Result<Vec<Missing>, Error> {
        let prefix = &self.node.settings.prefix;
        let gateways: Vec<IpNetwork> = self.node.networks().iter().map(ipam::gateway).collect();
        let bridge = names::bridge(prefix);
        let inventory = Inventory::read(links, &bridge, pods)?;
        let mut missing = repair::missing(&bridge, &gateways, pods, &inventory);
        if !rules::has_all(kernel, &self.loaded.lock().unwrap_or_else(PoisonError::into_inner)) {
            missing.push(Missing::NodeRules);
        }
        Ok(missing)
    }

    /// Creates a pod's veth pair.
    fn add_pair(&self, links: &Links, inside: &Inside, id: &PodId) -> Result<(), Error> {
        let settings = &self.node.settings;
        let name = self.node.host_end(id);
        let veth = Veth {
            name: &name,
            mac: names::host_mac(id),
            group: names::pod_group_number(&settings.prefix),
            mtu: settings.mtu,
            peer_name: INTERFACE,
            peer_mac: names::pod_mac(id),
            netns: inside.namespace().as_fd(),
        };
        let failed = || format!("cannot create interface {name} of pod {id}");
        link::add_veth(links, &veth).map_err(Error::failed(failed()))?;
        self.set_alias(links, id, &name).map_err(Error::failed(failed()))
    }

    /// Turns a spare's interface into the pod's.
    fn adopt_spare(&self, links: &Links, inside: &Inside, spare: &PodId, id: &PodId) -> Result<(), Error> {
        let (old, new) = (self.node.host_end(spare), self.node.host_end(id));
        let link = find(links, &old)?;
        let link = link.ok_or_else(|| Error::NotFound { what: format!("interface {old} of spare {spare}") })?;
        let failed = || format!("cannot rename interface {old} to {new}");
        link::rename(links, link.index, &new, names::host_mac(id)).map_err(Error::failed(failed()))?;
        self.set_alias(links, id, &new).map_err(Error::failed(failed()))?;
        inside.set_mac(names::pod_mac(id))?;
        self.node.forget(spare)
    }

    /// Sets the host end's alias to the whole id.
    fn set_alias(&self, links: &Links, id: &PodId, name: &str) -> io::Result<()> {
        let link = links.find(name)?.ok_or(io::ErrorKind::NotFound)?;
        links.set_alias(link.index, id.as_str())
    }

    /// Loads the pod's table, or removes one that it no longer needs.
    fn apply_rules(&self, before: Option<&NetworkSpec>, spec: &NetworkSpec) -> Result<(), Error> {
        let prefix = &self.node.settings.prefix;
        match rules::pod(prefix, spec) {
            Some(rules) => {
                netfilter::apply(&format!("the ruleset of pod {}", spec.id), &rules)?;
                let failed = |address| Error::failed(format!("cannot remove the connections to {address}"));
                let mut addresses = spec.addresses.iter().map(IpNetwork::ip).filter(|_| node::closes(spec, before));
                addresses.try_for_each(|ip| netfilter::forget_connections(ip).map_err(failed(ip)))
            }
            None if before.is_some_and(|before| rules::pod(prefix, before).is_some()) => self.remove_rules(&spec.id),
            None => Ok(()),
        }
    }

    fn remove_rules(&self, id: &PodId) -> Result<(), Error> {
        let table = rules::pod_table(&self.node.settings.prefix, id);
        let tables = list_tables()?;
        if !tables.contains(&table) {
            return Ok(());
        }
        netfilter::apply(&format!("the removal of table {table}"), &rules::delete_table(&table))
    }
}

/// Moves the interface that a pod has back to the node. Idempotent: without the namespace there is none.
fn give_back(place: Option<&Place>, lent: Option<&Lent>) -> Result<(), Error> {
    let (Some(Place::Netns(path)), Some(lent)) = (place, lent) else { return Ok(()) };
    match Inside::enter(path) {
        Err(Error::NotFound { .. }) => Ok(()),
        inside => inside?.give_back(lent),
    }
}

/// Routes a pod's addresses to the host's end of its interface. Idempotent.
fn route_to_pod(links: &Links, name: &str, spec: &NetworkSpec) -> Result<(), Error> {
    let link = find(links, name)?.ok_or_else(|| Error::NotFound { what: format!("interface {name}") })?;
    let failed = |address| format!("cannot route {address} to {name}");
    links.bring_up(link.index).map_err(Error::failed(format!("cannot bring up {name}")))?;
    for address in &spec.addresses {
        let source = Some(ipam::gateway(address).ip());
        links
            .add_host_route(link.index, address.ip(), source)
            .and_then(|()| links.add_neighbour(link.index, address.ip(), names::pod_mac(&spec.id)))
            .map_err(Error::failed(failed(address.ip())))?;
    }
    Ok(())
}

fn netns(place: &Place) -> Result<Option<&Path>, Error> {
    match place {
        Place::Netns(path) => Ok(Some(path)),
        Place::Host => Ok(None),
        Place::Jail(name) => Err(Error::Unsupported { what: format!("jail {name}"), backend: BACKEND }),
    }
}

fn open_links() -> Result<Links, Error> {
    link::open().map_err(Error::failed("cannot open a netlink socket"))
}

fn list_tables() -> Result<Vec<String>, Error> {
    netfilter::list_tables().map_err(Error::failed("cannot list the tables of nftables"))
}

fn count_rules() -> Result<Counts, Error> {
    netfilter::count_rules().map_err(Error::failed("cannot list the rules of nftables"))
}

fn find(links: &Links, name: &str) -> Result<Option<Link>, Error> {
    links.find(name).map_err(Error::failed(format!("cannot look up interface {name}")))
}

/// Reports whether nft(8) is on PATH.
fn program_need() -> Need {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(netfilter::PROGRAM)).find(|p| p.is_file());
    Need {
        name: format!("program {}", netfilter::PROGRAM),
        found: found.as_ref().map_or_else(|| "not on PATH".to_owned(), |path| path.display().to_string()),
        required: true,
        remedy: found.is_none().then(|| "install nftables".to_owned()),
    }
}
