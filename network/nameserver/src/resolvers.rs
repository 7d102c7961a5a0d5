//! The node's own resolvers, and the questions that go to them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::rr::Name;
use hickory_server::resolver::config::{NameServerConfig, ResolverOpts};
use hickory_server::store::forwarder::{ForwardConfig, ForwardZoneHandler};
use hickory_server::zone_handler::Catalog;

use crate::PORT;

/// The node's configuration (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How many of them are asked: MAXNS of resolv.h.
const MOST: usize = 3;
/// How long one of them may say nothing. Clients ask again after 5 s and give up after the second time (resolv.conf(5)).
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often each of them is asked.
const ATTEMPTS: usize = 2;
/// How many answers are remembered: some kilobytes each at the most.
const CACHE: u64 = 4096;

/// The resolvers of a resolv.conf(5), without these addresses, which are the name server's own. An address with a zone is left out:
/// it cannot be asked.
#[must_use]
pub fn resolvers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<IpAddr> {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") { words.next()?.parse().ok() } else { None }
    };
    let found = text.lines().filter_map(address).filter(|address| !own.contains(address));
    found.take(MOST).map(|address| SocketAddr::new(address, PORT)).collect()
}

/// Asks these resolvers. Without any, questions are refused. Inside a runtime.
pub(crate) fn forward(resolvers: &[SocketAddr]) -> Result<Catalog, String> {
    let mut catalog = Catalog::new();
    if resolvers.is_empty() {
        return Ok(catalog);
    }
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts, options.cache_size) = (TIMEOUT, ATTEMPTS, CACHE);
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    };
    let name_servers = resolvers.iter().map(server).collect();
    let forwarder =
        ForwardZoneHandler::builder_tokio(ForwardConfig { name_servers, options: Some(options) }).build()?;
    catalog.upsert(Name::root().into(), vec![Arc::new(forwarder)]);
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::resolvers;

    #[test]
    fn the_resolvers_of_the_node_are_read_without_ourselves() {
        let own: [IpAddr; 1] = ["10.88.0.1".parse().unwrap()];
        for (text, expected) in [
            ("search example.org\nnameserver 192.0.2.1\noptions ndots:1\n", &["192.0.2.1"][..]),
            ("nameserver\t2001:db8::1 # comment\n  nameserver 192.0.2.2\n", &["2001:db8::1", "192.0.2.2"]),
            ("nameserver fe80::1%em0\n#nameserver 192.0.2.1\nnameserver\nnameserver x\n", &[]),
            ("nameserver 10.88.0.1\nnameserver 127.0.0.53\n", &["127.0.0.53"]),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
                &["1.1.1.1", "1.1.1.2", "1.1.1.3"],
            ),
            ("", &[]),
        ] {
            let found: Vec<String> = resolvers(text, &own).iter().map(|found| found.ip().to_string()).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
