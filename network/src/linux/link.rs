//! Bridges and veth pairs by Linux's rtnetlink(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{NetlinkAddr, bind};
use socket2::{Domain, Socket, Type};

use crate::links::{LINK_ADDRESS, LINK_MTU, LINK_NAME, Link, Links, NEW_LINK, UP, header};
use crate::netlink::{Connection, Message, flag};

/// `RTM_SETLINK`, linux/rtnetlink.h.
const SET_LINK: u16 = 19;
// Attributes of a link, linux/if_link.h.
const LINK_INFO: u16 = 18;
const LINK_GROUP: u16 = 27;
const LINK_NETNS: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

/// The spec of a veth pair.
pub(super) struct Veth<'a> {
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
    pub(super) group: u32,
    pub(super) mtu: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_mac: [u8; 6],
    pub(super) netns: BorrowedFd<'a>,
}

/// Opens the calling thread's namespace.
pub(super) fn open() -> io::Result<Links> {
    Ok(Links::new(Connection::open(libc::AF_NETLINK, libc::NETLINK_ROUTE)?))
}

/// Opens a socket that is told of changes of links, addresses and routes.
pub(super) fn subscribe() -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(libc::NETLINK_ROUTE.into()))?;
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV6_ROUTE;
    let groups = u32::try_from(groups).map_err(io::Error::other)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Creates a bridge and brings it up. Idempotent.
pub(super) fn add_bridge(links: &Links, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<Link> {
    if links.find(name)?.is_none() {
        let info = Message::nest(&[]).with_text(INFO_KIND, "bridge");
        let message = Message::new(NEW_LINK, flag::CREATE | flag::EXCL, &header(0, 0, 0))
            .with_text(LINK_NAME, name)
            .with(LINK_ADDRESS, &mac)
            .with_nested(LINK_INFO, &info);
        links.request(&message)?;
    }
    let link = links.find(name)?.ok_or(io::ErrorKind::NotFound)?;
    links.set_mtu(link.index, mtu)?;
    links.bring_up(link.index)?;
    Ok(link)
}

/// Creates a veth pair: one end here, in the pods' group, the other in the pod's namespace.
pub(super) fn add_veth(links: &Links, veth: &Veth<'_>) -> io::Result<()> {
    let netns = u32::try_from(veth.netns.as_raw_fd()).map_err(io::Error::other)?;
    let peer = Message::nest(&header(0, 0, 0))
        .with_text(LINK_NAME, veth.peer_name)
        .with(LINK_ADDRESS, &veth.peer_mac)
        .with_u32(LINK_MTU, veth.mtu)
        .with_u32(LINK_NETNS, netns);
    let data = Message::nest(&[]).with_nested(VETH_PEER, &peer);
    let info = Message::nest(&[]).with_text(INFO_KIND, "veth").with_nested(INFO_DATA, &data);
    let message = Message::new(NEW_LINK, flag::CREATE | flag::EXCL, &header(0, UP, UP))
        .with_text(LINK_NAME, veth.name)
        .with(LINK_ADDRESS, &veth.mac)
        .with_u32(LINK_MTU, veth.mtu)
        .with_u32(LINK_GROUP, veth.group)
        .with_nested(LINK_INFO, &info);
    links.request(&message)
}

/// Moves an interface into another namespace, where it is down and has no address.
pub(super) fn move_to(links: &Links, index: u32, netns: BorrowedFd<'_>) -> io::Result<()> {
    let netns = u32::try_from(netns.as_raw_fd()).map_err(io::Error::other)?;
    links.request(&Message::new(SET_LINK, 0, &header(index, 0, 0)).with_u32(LINK_NETNS, netns))
}

/// Changes name and MAC; the interface is down for a moment.
pub(super) fn rename(links: &Links, index: u32, name: &str, mac: [u8; 6]) -> io::Result<()> {
    links.request(&Message::new(SET_LINK, 0, &header(index, 0, UP)))?;
    let change = Message::new(SET_LINK, 0, &header(index, 0, 0)).with_text(LINK_NAME, name).with(LINK_ADDRESS, &mac);
    links.request(&change)?;
    links.bring_up(index)
}
