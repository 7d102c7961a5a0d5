//! DNSConfig into the text of a resolv.conf.

use std::net::IpAddr;

use proto::v1::DnsConfig;

use super::refusal::{Refusal, invalid};

/// The containers' /etc/resolv.conf (resolv.conf(5)); None: nothing is configured, and the host's is used, as in containerd.
pub(super) fn resolv_conf(config: Option<&DnsConfig>) -> Result<Option<String>, Refusal> {
    let Some(config) = config else { return Ok(None) };
    let mut text = String::new();
    for (field, keyword, words) in
        [("dns_config.searches", "search", &config.searches), ("dns_config.options", "options", &config.options)]
    {
        if let Some(word) = words.iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
            return Err(invalid(field, format!("{word:?} is not one word")));
        }
        if keyword == "options" {
            text.extend(servers(config)?);
        }
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The resolv.conf of a pod without a DNS configuration, which asks the name server on its gateways. With two dots to be seen as
/// whole, `POD.NAMESPACE` is looked for among the pods before it is asked of the world.
pub(crate) fn resolv_conf_of_gateways(domain: &str, namespace: &str, gateways: &[IpAddr]) -> String {
    let own = if nameserver::is_label(namespace) { format!("{namespace}.{domain} ") } else { String::new() };
    let servers: String = gateways.iter().map(|gateway| format!("nameserver {gateway}\n")).collect();
    format!("search {own}{domain}\n{servers}options ndots:2\n")
}

fn servers(config: &DnsConfig) -> Result<Vec<String>, Refusal> {
    let line = |server: &String| {
        // An IPv6 address may carry a zone: fe80::1%eth0.
        let address = server.split('%').next().unwrap_or(server);
        match address.parse::<IpAddr>() {
            Ok(_) if !server.contains(char::is_whitespace) => Ok(format!("nameserver {server}\n")),
            _ => Err(invalid("dns_config.servers", format!("{server:?} is not an address"))),
        }
    };
    config.servers.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use proto::v1::DnsConfig;

    use super::{resolv_conf, resolv_conf_of_gateways};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_configuration_is_the_file_that_resolvers_read() {
        let config = DnsConfig {
            servers: words(&["10.10.10.10", "fe80::1%eth0"]),
            searches: words(&["google.com", "svc.cluster.local"]),
            options: words(&["ndots:8"]),
        };
        let text = resolv_conf(Some(&config)).unwrap().unwrap();
        assert_eq!(
            text,
            "search google.com svc.cluster.local\nnameserver 10.10.10.10\nnameserver fe80::1%eth0\noptions ndots:8\n"
        );
    }

    #[test]
    fn without_a_configuration_the_host_decides() {
        assert_eq!(resolv_conf(None), Ok(None));
        assert_eq!(resolv_conf(Some(&DnsConfig::default())), Ok(None));
    }

    #[test]
    fn the_gateways_are_asked_for_the_pods_of_the_namespace_first() {
        let gateways = ["10.88.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(
            resolv_conf_of_gateways("local.cellblock", "web", &gateways),
            "search web.local.cellblock local.cellblock\nnameserver 10.88.0.1\nnameserver fd00::1\noptions ndots:2\n"
        );
        assert_eq!(
            resolv_conf_of_gateways("pods", "", &gateways[..1]),
            "search pods\nnameserver 10.88.0.1\noptions ndots:2\n"
        );
    }

    #[test]
    fn what_would_be_another_line_is_refused() {
        for config in [
            DnsConfig { servers: words(&["ns.example.org"]), ..DnsConfig::default() },
            DnsConfig { servers: words(&["fe80::1%a\nnameserver"]), ..DnsConfig::default() },
            DnsConfig { searches: words(&["a\nnameserver 1.2.3.4"]), ..DnsConfig::default() },
            DnsConfig { options: words(&[""]), ..DnsConfig::default() },
        ] {
            assert!(resolv_conf(Some(&config)).is_err(), "{config:?}");
        }
    }
}
