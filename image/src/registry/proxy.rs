//! The proxies of the server's environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, also in lower case. reqwest asks
//! them but does not tell which one it asked: for errors, the library by which it chooses is asked once more.

use std::sync::LazyLock;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// Each proxy's variable, in both spellings: of the two, the first that is set counts.
const VARIABLES: [[&str; 2]; 3] =
    [["ALL_PROXY", "all_proxy"], ["HTTP_PROXY", "http_proxy"], ["HTTPS_PROXY", "https_proxy"]];

static ENVIRONMENT: LazyLock<Matcher> = LazyLock::new(Matcher::from_system);

/// The proxy through which an address is asked, as host and port, without user and password; None: none.
pub(super) fn of(url: &Url) -> Option<String> {
    if is_loopback(url) {
        return None;
    }
    let chosen = ENVIRONMENT.intercept(&url.as_str().parse().ok()?)?;
    // Not the authority: of a password with an @ it still has the rest.
    let authority = chosen.uri().authority()?;
    let host = authority.host();
    Some(authority.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Whether an address is on this machine: no proxy is asked for it.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Warns of the variables whose value is no proxy: reqwest ignores them.
pub(crate) fn warn_of_unusable() {
    let set = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    for (name, value) in VARIABLES.into_iter().filter_map(set).filter(|(_, value)| !is_usable(value)) {
        tracing::warn!("{name}={} is not the address of a proxy and has no effect", without_secret(&value));
    }
}

/// Whether a variable names a proxy, or none.
fn is_usable(value: &str) -> bool {
    let any = "http://any.example".parse().expect("a constant address");
    let chosen = Matcher::builder().all(value).build().intercept(&any);
    // reqwest would speak HTTP to a SOCKS proxy: it is built without SOCKS.
    value.is_empty() || chosen.is_some_and(|chosen| matches!(chosen.uri().scheme_str(), Some("http" | "https")))
}

/// A variable's value without what may be a user and a password.
fn without_secret(value: &str) -> &str {
    value.rsplit_once('@').map_or(value, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::{is_loopback, is_usable, without_secret};

    #[test]
    fn what_is_on_this_machine_is_told_by_its_address() {
        for (url, here) in [
            ("http://localhost:5000/v2", true),
            ("http://127.0.0.2/", true),
            ("https://[::1]:5000/", true),
            ("https://127.0.0.1.example/", false),
            ("https://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), here, "{url}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_told_without_its_password() {
        for (value, usable, told) in [
            ("", true, ""),
            ("proxy.example:3128", true, "proxy.example:3128"),
            ("http://user:p@ss@proxy.example", true, "proxy.example"),
            ("http://user:pass@proxy.example:3128", true, "proxy.example:3128"),
            ("::bad::", false, "::bad::"),
            ("socks5://proxy.example:1080", false, "socks5://proxy.example:1080"),
            ("ftp://user:pass@proxy.example", false, "proxy.example"),
        ] {
            assert_eq!((is_usable(value), without_secret(value)), (usable, told), "{value}");
        }
    }
}
