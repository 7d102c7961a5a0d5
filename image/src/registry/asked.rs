//! Whom a request asks: the registry, a host that it redirects to, its token server or an address of a layer, perhaps through a proxy.
//! Errors name the machine that is at fault, which need not be the registry.

use reqwest::Url;

use super::proxy;
use crate::hosts::authority;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A manifest or a blob, from the registry or wherever it redirects to.
    Content,
    /// A layer, from an address in its descriptor.
    Layer,
    /// A token.
    Token,
}

/// The host of one request.
#[derive(Debug)]
pub(super) struct Asked {
    purpose: Purpose,
    /// Host, and port if the address has one.
    host: String,
    /// The registry on whose behalf it is asked.
    registry: String,
    /// It has the registry's scheme, host and port.
    is_registry: bool,
    proxy: Option<String>,
}

impl Asked {
    /// The host of an address that is asked on behalf of the registry at `base`.
    pub(super) fn new(purpose: Purpose, url: &Url, base: &Url) -> Self {
        Self {
            purpose,
            host: authority(url),
            registry: authority(base),
            is_registry: url.origin() == base.origin(),
            proxy: proxy::of(url),
        }
    }

    pub(super) fn is_for_token(&self) -> bool {
        self.purpose == Purpose::Token
    }

    /// Whether it is the registry's own host.
    pub(super) fn is_registry(&self) -> bool {
        self.is_registry
    }

    pub(super) fn is_proxied(&self) -> bool {
        self.proxy.is_some()
    }

    /// It and its part in the pull: `cdn.example, to which registry registry.example redirects`.
    pub(super) fn who(&self) -> String {
        let Self { host, registry, .. } = self;
        match self.purpose {
            Purpose::Content if self.is_registry => format!("registry {registry}"),
            Purpose::Content => format!("{host}, to which registry {registry} redirects"),
            Purpose::Layer => format!("{host}, which the image names for a layer"),
            Purpose::Token => format!("{host}, the token server of registry {registry}"),
        }
    }

    /// A sentence about it: who does what.
    pub(super) fn does(&self, what: &str) -> String {
        format!("{}{} {what}{}", self.who(), self.comma(), self.via())
    }

    /// The operation of an error: it cannot be reached.
    pub(super) fn unreached(&self) -> String {
        match self.purpose {
            Purpose::Token => {
                format!("cannot get a token from {} for registry {}{}", self.host, self.registry, self.via())
            }
            Purpose::Content | Purpose::Layer => {
                let comma = if self.is_proxied() { self.comma() } else { "" };
                format!("cannot reach {}{comma}{}", self.who(), self.via())
            }
        }
    }

    /// The name of what it does not have.
    pub(super) fn lacks(&self, what: &str) -> String {
        let place = if self.is_registry { "in" } else { "at" };
        format!("{what} {place} {}{}", self.who(), self.comma())
    }

    /// Ends the clause of [`Self::who`] where a sentence goes on.
    fn comma(&self) -> &'static str {
        if self.who().contains(", ") { "," } else { "" }
    }

    fn via(&self) -> String {
        self.proxy.as_ref().map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Purpose};

    fn asked(purpose: Purpose, host: &str, proxy: Option<&str>) -> Asked {
        let (host, proxy) = (host.to_owned(), proxy.map(str::to_owned));
        Asked { purpose, is_registry: host == "r", host, registry: "r".to_owned(), proxy }
    }

    #[test]
    fn each_host_is_named_with_its_part_and_its_proxy() {
        for (purpose, host, proxy, unreached, serves) in [
            (Purpose::Content, "r", None, "cannot reach registry r", "registry r serves"),
            (
                Purpose::Content,
                "r",
                Some("p:1"),
                "cannot reach registry r through the proxy p:1",
                "registry r serves through the proxy p:1",
            ),
            (
                Purpose::Content,
                "cdn",
                None,
                "cannot reach cdn, to which registry r redirects",
                "cdn, to which registry r redirects, serves",
            ),
            (
                Purpose::Content,
                "cdn",
                Some("p:1"),
                "cannot reach cdn, to which registry r redirects, through the proxy p:1",
                "cdn, to which registry r redirects, serves through the proxy p:1",
            ),
            (
                Purpose::Token,
                "auth",
                Some("p:1"),
                "cannot get a token from auth for registry r through the proxy p:1",
                "auth, the token server of registry r, serves through the proxy p:1",
            ),
            (
                Purpose::Layer,
                "away",
                None,
                "cannot reach away, which the image names for a layer",
                "away, which the image names for a layer, serves",
            ),
        ] {
            let asked = asked(purpose, host, proxy);
            assert_eq!((asked.unreached().as_str(), asked.does("serves").as_str()), (unreached, serves));
        }
        assert_eq!(asked(Purpose::Content, "r", None).lacks("it"), "it in registry r");
        assert_eq!(asked(Purpose::Content, "cdn", None).lacks("it"), "it at cdn, to which registry r redirects,");
    }
}
