//! The HTTP clients of a host: one that asks the proxies of the environment, and one that does not, for addresses on loopback.

use std::sync::LazyLock;

use reqwest::{Client, ClientBuilder, Url, redirect};

use super::{proxy, tls};
use crate::Error;
use crate::hosts::{DIAL_TIMEOUT, Endpoint};

/// The clients for hosts without TLS settings, shared so that connections are reused.
static PLAIN: LazyLock<Result<Clients, String>> =
    LazyLock::new(|| Clients::build(builder).map_err(|error| host::chain(&error)));

/// A client for each way to a host.
#[derive(Clone)]
pub(super) struct Clients {
    proxied: Client,
    direct: Client,
}

impl Clients {
    /// Prepares the clients with a host's settings. Reads certificate files: blocking.
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        let operation = || format!("cannot prepare to ask registry {}", endpoint.authority());
        let dialled = || builder().connect_timeout(endpoint.dial_timeout);
        if !(endpoint.ca.is_empty() && endpoint.client.is_empty()) || endpoint.skip_verify {
            let config = tls::config(endpoint)?;
            let built = Self::build(|| dialled().tls_backend_preconfigured(config.clone()));
            return built.map_err(Error::failed(operation()));
        }
        let built = if endpoint.dial_timeout == DIAL_TIMEOUT {
            PLAIN.clone()
        } else {
            Self::build(dialled).map_err(|error| host::chain(&error))
        };
        match (built, endpoint.base.scheme()) {
            // A system without certificate authorities can still use hosts without TLS.
            (Err(_), "http") => Self::build(|| dialled().tls_certs_only([])).map_err(Error::failed(operation())),
            (built, _) => built.map_err(Error::failed(operation())),
        }
    }

    fn build(builder: impl Fn() -> ClientBuilder) -> Result<Self, reqwest::Error> {
        Ok(Self { proxied: builder().build()?, direct: builder().no_proxy().build()? })
    }

    /// The client for an address.
    pub(super) fn of(&self, url: &Url) -> &Client {
        if proxy::is_loopback(url) { &self.direct } else { &self.proxied }
    }
}

fn builder() -> ClientBuilder {
    // Fails if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(DIAL_TIMEOUT)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("cellblock/", env!("CARGO_PKG_VERSION")))
}
