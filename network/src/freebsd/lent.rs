//! Interfaces of the node in pods. A vnet that ends gives them back by itself (vnet(9)), but a jail may be dying for long.

use host::PodId;

use super::vnet::{Vnet, jail_id};
use super::{add_addresses, open_node_vnet, sys};
use crate::node::{self, Node};
use crate::{Error, Lent, names};

/// Moves the interface into the pod's vnet, up and with its addresses. Idempotent.
pub(super) fn give(vnet: &Vnet, inside: &Vnet, jail: &str, lent: &Lent) -> Result<(), Error> {
    let name = &*lent.name;
    let failed = || format!("cannot move {name} into jail {jail}");
    let find = |vnet: &Vnet| vnet.links.find(name).map_err(Error::failed(format!("cannot look up interface {name}")));
    if find(inside)?.is_none() {
        if find(vnet)?.is_none() {
            return Err(node::nothing_to_lend(name));
        }
        sys::move_to_jail(&vnet.inet, name, jail_id(jail)?).map_err(Error::failed(failed()))?;
    }
    let index = inside.index(name)?;
    inside.links.bring_up(index).map_err(Error::failed(format!("cannot bring up {name}")))?;
    add_addresses(inside, name, index, &lent.addresses)
}

/// Moves the interface that a pod has back to the node. Idempotent.
pub(super) fn take_back(node: &Node, id: &PodId) -> Result<(), Error> {
    // Whose record cannot be read, the vnet's end gives back.
    let Some(lent) = node.state.load(id).ok().flatten().and_then(|spec| spec.lent) else { return Ok(()) };
    match jail_id(&names::pod(&node.settings.prefix, id)) {
        Err(Error::NotFound { .. }) => Ok(()),
        jail => sys::take_from_jail(&open_node_vnet()?.inet, &lent.name, jail?)
            .map_err(Error::failed(format!("cannot move {} back to the node", lent.name))),
    }
}
