//! The epair of a pod or spare: created on the node, its inner end moved into the pod's vnet. Its first name is the
//! kernel's (`epair20000a`). That name is chosen from the id and recorded first, so that a pair is found again if the
//! server dies before renaming it.

use std::fs;
use std::io::ErrorKind;

use host::{PodId, Prefix};

use super::sys;
use super::vnet::{Entry, Vnet, jail_id};
use crate::node::{INTERFACE, Node};
use crate::{Error, names};

/// The file of the first name, in the pod's directory.
const NOTE: &str = "epair";
/// The range of units: above those of operators, below the kernel's limit (IF_MAXUNIT).
const FIRST_UNIT: u32 = 0x4000;
const UNITS: u32 = 0x4000;
/// Attempts to find a free unit: there are far fewer pods than units.
const TRIES: u32 = 64;

/// Whether both ends of a pod's pair are in place.
pub(super) fn is_whole(vnet: &Vnet, inside: &mut Entry, prefix: &Prefix, id: &PodId) -> Result<bool, Error> {
    Ok(find(vnet, &names::host_end(prefix, id))? && find(inside.vnet()?, INTERFACE)?)
}

/// Creates the pair, and replaces an incomplete one. Idempotent.
pub(super) fn make(node: &Node, vnet: &Vnet, inside: &mut Entry, jail: &str, id: &PodId) -> Result<(), Error> {
    let settings = &node.settings;
    if is_whole(vnet, inside, &settings.prefix, id)? {
        return Ok(());
    }
    remove(node, id)?;
    let outer = create(node, vnet, id)?;
    let inner = format!("{}b", outer.trim_end_matches('a'));
    let name = node.host_end(id);
    let failed = || format!("cannot create interface {name} of pod {id}");
    let (outer_index, inner_index) = (vnet.index(&outer)?, vnet.index(&inner)?);
    let links = &vnet.links;
    links
        .set_alias(outer_index, id.as_str())
        .and_then(|()| sys::rename(&vnet.inet, &outer, &name))
        .and_then(|()| links.set_mac(outer_index, names::host_mac(id)))
        .and_then(|()| links.set_mac(inner_index, names::pod_mac(id)))
        .and_then(|()| links.set_mtu(outer_index, settings.mtu))
        .and_then(|()| links.set_mtu(inner_index, settings.mtu))
        .and_then(|()| sys::add_to_group(&vnet.inet, &name, &names::pod_group(&settings.prefix)))
        .and_then(|()| links.bring_up(outer_index))
        .map_err(Error::failed(failed()))?;
    let failed = || format!("cannot move {inner} into jail {jail}");
    sys::move_to_jail(&vnet.inet, &inner, jail_id(jail)?).map_err(Error::failed(failed()))?;
    sys::rename(&inside.vnet()?.inet, &inner, INTERFACE).map_err(Error::failed(failed()))
}

/// Turns a spare's pair into the pod's.
pub(super) fn adopt(node: &Node, vnet: &Vnet, inside: &Vnet, spare: &PodId, id: &PodId) -> Result<(), Error> {
    let (old, new) = (node.host_end(spare), node.host_end(id));
    if !find(vnet, &old)? {
        return Err(Error::NotFound { what: format!("interface {old} of spare {spare}") });
    }
    let index = vnet.index(&old)?;
    let inner = inside.index(INTERFACE)?;
    let links = &vnet.links;
    links
        .set_alias(index, id.as_str())
        .and_then(|()| sys::rename(&vnet.inet, &old, &new))
        .and_then(|()| links.set_mac(index, names::host_mac(id)))
        .and_then(|()| inside.links.set_mac(inner, names::pod_mac(id)))
        .map_err(Error::failed(format!("cannot rename interface {old} to {new}")))?;
    node.forget(spare)
}

/// Removes the pair under its current or first name; the inner end goes with the outer one. Idempotent.
pub(super) fn remove(node: &Node, id: &PodId) -> Result<(), Error> {
    let vnet = super::open_node_vnet()?;
    destroy(&vnet, &node.host_end(id))?;
    let note = node.state.directory_of(id).join(NOTE);
    let first = match fs::read_to_string(&note) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        first => first.map_err(Error::failed(format!("cannot read {}", note.display())))?,
    };
    let first = format!("{first}a");
    let link = vnet.links.find(&first).map_err(Error::failed(format!("cannot look up {first}")))?;
    // A foreign description means a foreign interface: ours is empty or the id.
    if link.is_some_and(|link| link.alias.is_empty() || link.alias == id.as_str()) {
        destroy(&vnet, &first)?;
    }
    Ok(())
}

/// Removes an interface. Idempotent.
pub(super) fn destroy(vnet: &Vnet, name: &str) -> Result<(), Error> {
    vnet.links.remove(name).map_err(Error::failed(format!("cannot remove interface {name}")))
}

/// Creates a pair with a unit computed from the id and returns its first end.
fn create(node: &Node, vnet: &Vnet, id: &PodId) -> Result<String, Error> {
    let start = u32::from_str_radix(&id.as_str()[..8], 16).expect("an id is hexadecimal");
    let note = node.state.directory_of(id).join(NOTE);
    for unit in (0..TRIES).map(|step| FIRST_UNIT + start.wrapping_add(step) % UNITS) {
        let name = format!("epair{unit}");
        if find(vnet, &format!("{name}a"))? {
            continue;
        }
        host::fs::replace(&note, name.as_bytes(), 0o600)
            .map_err(Error::failed(format!("cannot write {}", note.display())))?;
        match sys::create(&vnet.inet, &name) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => (),
            made => return made.map_err(Error::failed(format!("cannot create {name}"))),
        }
    }
    Err(Error::Exhausted { what: format!("{TRIES} epair units are all taken") })
}

fn find(vnet: &Vnet, name: &str) -> Result<bool, Error> {
    let link = vnet.links.find(name).map_err(Error::failed(format!("cannot look up interface {name}")))?;
    Ok(link.is_some())
}

impl Vnet {
    /// Returns an interface's index; [`Error::NotFound`] if missing.
    pub(super) fn index(&self, name: &str) -> Result<u32, Error> {
        let link = self.links.find(name).map_err(Error::failed(format!("cannot look up interface {name}")))?;
        Ok(link.ok_or_else(|| Error::NotFound { what: format!("interface {name}") })?.index)
    }
}
