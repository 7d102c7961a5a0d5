//! Configures a pod's network namespace. A socket belongs to the namespace it was opened in: a thread enters, opens a
//! socket and ends; afterwards the server configures the namespace through the socket, without a process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns};

use super::link;
use crate::links::Links;
use crate::node::{self, INTERFACE};
use crate::{Error, Lent, NetworkSpec, ipam, names};

/// The index of lo: the first interface of every network namespace.
const LOOPBACK: u32 = 1;
/// The node's network namespace.
const NODE: &str = "/proc/self/ns/net";
/// Disables router advertisements for new interfaces.
const ACCEPT_RA: &str = "/proc/sys/net/ipv6/conf/default/accept_ra";

/// A netlink socket inside a pod's network namespace.
pub(super) struct Inside {
    links: Links,
    namespace: File,
}

impl Inside {
    /// Opens a socket in the namespace pinned at this path.
    pub(super) fn enter(path: &Path) -> Result<Self, Error> {
        let namespace = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound { what: format!("network namespace {}", path.display()) },
            _ => Error::failed(format!("cannot open network namespace {}", path.display()))(error),
        })?;
        let inside = &namespace;
        let links = std::thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(inside.as_fd(), CloneFlags::CLONE_NEWNET)?;
                forbid_announcements()?;
                link::open()
            });
            entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
        });
        let links = links.map_err(Error::failed(format!("cannot enter network namespace {}", path.display())))?;
        Ok(Self { links, namespace })
    }

    pub(super) fn namespace(&self) -> &File {
        &self.namespace
    }

    pub(super) fn bring_up_loopback(&self) -> Result<(), Error> {
        self.links.bring_up(LOOPBACK).map_err(Error::failed("cannot bring up lo"))
    }

    /// Changes the MAC of eth0, when a spare becomes a pod.
    pub(super) fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        let index = self.index()?;
        self.links.set_mac(index, mac).map_err(Error::failed("cannot change the MAC of eth0"))
    }

    /// Brings up eth0 and gives it exactly the addresses and routes of the spec. Idempotent.
    pub(super) fn configure(&self, spec: &NetworkSpec) -> Result<(), Error> {
        let index = self.index()?;
        let failed = |what: &IpNetwork| format!("cannot give pod {} the address {what}", spec.id);
        self.links.bring_up(index).map_err(Error::failed("cannot bring up eth0"))?;
        let present = self.links.addresses().map_err(Error::failed("cannot list the addresses of eth0"))?;
        let present = present.iter().filter(|(of, _)| *of == index).map(|(_, address)| address);
        let own: Vec<IpNetwork> = spec.addresses.iter().map(node::alone).collect();
        for address in present.filter(|address| !own.contains(address)) {
            self.links.remove_address(index, address).map_err(Error::failed(format!("cannot remove {address}")))?;
        }
        for (address, own) in spec.addresses.iter().zip(&own) {
            self.links.add_address(index, own).map_err(Error::failed(failed(own)))?;
            let gateway = ipam::gateway(address).ip();
            self.links
                .add_host_route(index, gateway, None)
                .and_then(|()| self.links.add_neighbour(index, gateway, names::host_mac(&spec.id)))
                .and_then(|()| self.links.add_route(index, &node::reach(address, spec.route), gateway))
                .map_err(Error::failed(format!("cannot route pod {} by {gateway}", spec.id)))?;
        }
        Ok(())
    }

    /// Moves an interface of the node in, up and with its addresses. Idempotent.
    pub(super) fn take(&self, node: &Links, lent: &Lent) -> Result<(), Error> {
        let name = &*lent.name;
        let find = |links: &Links| links.find(name).map_err(Error::failed(format!("cannot look up interface {name}")));
        if find(&self.links)?.is_none() {
            let link = find(node)?.ok_or_else(|| node::nothing_to_lend(name))?;
            link::move_to(node, link.index, self.namespace.as_fd())
                .map_err(Error::failed(format!("cannot move {name} into the pod")))?;
        }
        let index = find(&self.links)?.ok_or_else(|| node::nothing_to_lend(name))?.index;
        self.links.bring_up(index).map_err(Error::failed(format!("cannot bring up {name}")))?;
        lent.addresses.iter().try_for_each(|address| {
            let failed = format!("cannot give {name} the address {address}");
            self.links.add_address(index, address).map_err(Error::failed(failed))
        })
    }

    /// Moves an interface back to the node: the end of a namespace destroys VLANs and other virtual ones. Idempotent.
    pub(super) fn give_back(&self, lent: &Lent) -> Result<(), Error> {
        let failed = || format!("cannot move {} back to the node", lent.name);
        let node = File::open(NODE).map_err(Error::failed(failed()))?;
        match self.links.find(&lent.name).map_err(Error::failed(failed()))? {
            Some(link) => link::move_to(&self.links, link.index, node.as_fd()).map_err(Error::failed(failed())),
            None => Ok(()),
        }
    }

    fn index(&self) -> Result<u32, Error> {
        let found = self.links.find(INTERFACE).map_err(Error::failed("cannot look up eth0"))?;
        Ok(found.ok_or_else(|| Error::NotFound { what: "eth0 in the pod".to_owned() })?.index)
    }
}

/// Runs in a thread inside the namespace, so /proc/sys/net is the namespace's.
fn forbid_announcements() -> io::Result<()> {
    match fs::write(ACCEPT_RA, "0") {
        // A kernel without IPv6 has no such file.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
