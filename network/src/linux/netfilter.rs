//! nftables and connection tracking. nft(8) applies changes, one transaction each; lookups and the removal of
//! connections use netlink, which costs less than a process.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use host::run::Tool;

use crate::Error;
use crate::netlink::{Connection, Message, text};
use crate::nft::rules::Counts;

/// nft(8).
pub(super) const PROGRAM: &str = "nft";
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE`, linux/netfilter/nf_tables.h.
const GET_TABLE: u16 = 10 << 8 | 1;
/// `NFTA_TABLE_NAME`.
const TABLE_NAME: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE`, `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN`.
const GET_RULE: u16 = 10 << 8 | 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
/// `NFPROTO_INET`.
const FAMILY_INET: u8 = 1;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`, linux/netfilter/nfnetlink_conntrack.h.
const DELETE_CONNECTION: u16 = 1 << 8 | 2;
/// `NLA_F_NESTED`, required by this subsystem.
const NESTED: u16 = 0x8000;
/// `CTA_TUPLE_REPLY`, and in it `CTA_TUPLE_IP`, and in that the source address of each family.
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const SOURCE_IPV4: u16 = 1;
const SOURCE_IPV6: u16 = 3;
/// `CTA_FILTER`, and in it `CTA_FILTER_REPLY_FLAGS` with `CTA_FILTER_F_CTA_IP_SRC`.
const FILTER: u16 = 25;
const FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_SOURCE: u32 = 1;

/// Applies a ruleset in one transaction.
pub(super) fn apply(what: &str, ruleset: &str) -> Result<(), Error> {
    Tool::new(PROGRAM).args(["-f", "-"]).stdin(ruleset).run().map_err(Error::failed(format!("cannot load {what}")))?;
    Ok(())
}

/// Lists the tables of the family inet.
pub(super) fn list_tables() -> io::Result<Vec<String>> {
    let connection = Connection::open(libc::AF_NETLINK, libc::NETLINK_NETFILTER)?;
    let answers = connection.dump(&Message::new(GET_TABLE, 0, &[FAMILY_INET, 0, 0, 0]))?;
    let names = answers.iter().filter_map(|answer| {
        let attributes = answer.attributes(4);
        attributes.iter().find(|(kind, _)| *kind == TABLE_NAME).map(|(_, value)| text(value))
    });
    Ok(names.collect())
}

/// Counts the rules of the family inet by table and chain.
pub(super) fn count_rules() -> io::Result<Counts> {
    let connection = Connection::open(libc::AF_NETLINK, libc::NETLINK_NETFILTER)?;
    let mut counts = BTreeMap::new();
    for answer in connection.dump(&Message::new(GET_RULE, 0, &[FAMILY_INET, 0, 0, 0]))? {
        let attributes = answer.attributes(4);
        let name = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| text(value));
        if let (Some(table), Some(chain)) = (name(RULE_TABLE), name(RULE_CHAIN)) {
            *counts.entry((table, chain)).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Removes the tracked connections to an address, so that a new pod on the same host port gets new ones. Kernels before
/// 6.8 lack the filter (EOPNOTSUPP); there the entries expire.
pub(super) fn forget_connections(address: IpAddr) -> io::Result<()> {
    let (family, source, octets) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, SOURCE_IPV4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, SOURCE_IPV6, v6.octets().to_vec()),
    };
    let family = u8::try_from(family).map_err(io::Error::other)?;
    let ip = Message::nest(&[]).with(source, &octets);
    let tuple = Message::nest(&[]).with_nested(NESTED | TUPLE_IP, &ip);
    let filter = Message::nest(&[]).with_u32(FILTER_REPLY_FLAGS, FILTER_SOURCE);
    let message = Message::new(DELETE_CONNECTION, 0, &[family, 0, 0, 0])
        .with_nested(NESTED | TUPLE_REPLY, &tuple)
        .with_nested(NESTED | FILTER, &filter);
    let connection = Connection::open(libc::AF_NETLINK, libc::NETLINK_NETFILTER)?;
    match connection.request(&message) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}
