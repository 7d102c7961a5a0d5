//! A client of the OCI distribution specification for pulls: manifests and blobs, with authentication. Hosts are not trusted:
//! every document has a limit, redirects are counted and carry no credentials to other hosts, and errors contain no secrets.

mod asked;
mod auth;
mod client;
mod clients;
mod down;
mod patience;
mod proxy;
mod slots;
mod source;
mod tls;
mod transfer;
mod trouble;

use std::time::Duration;

use crate::Error;

pub(crate) use down::Down;
pub(crate) use proxy::warn_of_unusable as warn_of_proxies;
pub(crate) use slots::Slots;
pub(crate) use source::{Asking, Source};
pub(crate) use transfer::{Piece, Wanted};

/// The value of a Basic authorization header.
pub(crate) fn basic_value(username: &str, password: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{username}:{password}"))
}

/// Why a request failed.
#[derive(Debug)]
enum Failure {
    /// A retry would fail as well.
    Permanent(Error),
    /// A retry may succeed, perhaps after the Retry-After of the registry.
    Transient(Error, Option<Duration>),
    /// The host cannot be reached, or does not answer: another one may. `passing`: a retry may succeed. `is_down`: it is the
    /// registry's own host, and not its token server, a host that it redirects to, or a proxy.
    Unreachable { error: Error, passing: bool, is_down: bool },
}

impl Failure {
    fn error(&self) -> &Error {
        match self {
            Self::Permanent(error) | Self::Transient(error, _) | Self::Unreachable { error, .. } => error,
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Permanent(error) | Self::Transient(error, _) | Self::Unreachable { error, .. } => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Permanent(error)
    }
}
