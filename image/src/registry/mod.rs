//! The registry protocol (the OCI distribution specification), as far as a pull needs it: manifests and blobs from one host,
//! with its authentication. Nothing a host says is trusted: what is read into memory has limits, redirects are counted and get
//! no credentials on other hosts, and no error repeats a secret.

mod auth;
mod client;
mod source;

use std::time::Duration;

use crate::Error;

pub(crate) use source::{Piece, Source};

/// The value of a Basic authorization header.
pub(crate) fn basic_value(username: &str, password: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{username}:{password}"))
}

/// Why a request did not give what it should.
#[derive(Debug)]
enum Fault {
    /// Asking again will not change it.
    Final(Error),
    /// It may pass, perhaps after the time that the registry asks for.
    Passing(Error, Option<Duration>),
}

impl Fault {
    fn error(self) -> Error {
        match self {
            Self::Final(error) | Self::Passing(error, _) => error,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}
