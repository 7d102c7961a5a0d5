//! The proxies of the server's environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, also in lower case. reqwest asks
//! them but does not tell which one it asked: for errors, the library by which it chooses is asked once more.

use std::sync::LazyLock;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

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

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::is_loopback;

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
}
