//! The one error of this crate: what its caller can act on. A client that breaks a protocol is answered on its connection.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why there is no server, or no URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting, or a field of a request, has an invalid value.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The value and its fault.
        reason: String,
    },
    /// Too many URLs are unused; the oldest expires within a minute.
    #[error("maximum number of in-flight requests exceeded")]
    TooMany,
    /// The certificate cannot be used.
    #[error("cannot use the certificate in {path:?}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Its fault.
        reason: String,
    },
    /// The server cannot listen on the address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}
