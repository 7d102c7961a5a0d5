//! Exec, attach and port-forward: what kubelet, crictl and kubectl open by the URLs that the RPCs of these names return.
//!
//! A client comes by HTTP, upgrades to SPDY/3.1 or WebSocket, and gets streams of bytes: those of a process, or of
//! connections into a pod. Each stream holds a fixed number of bytes and the connection none: a process that writes faster
//! than its client reads waits in its own write, and a client that sends faster than it is taken waits in its socket.

mod channel;
mod command;
mod connection;
mod descriptor;
mod forward;
pub mod idle;
pub mod inbox;
mod negotiate;
mod process;
mod server;
pub mod spdy;
mod status;
mod tls;
mod token;
mod tunnel;
pub mod websocket;
pub mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use command::Command;
pub use forward::Forward;
pub use server::{CONNECTIONS, Server, Settings};
pub use tls::Certificate;

/// Why there is no server, or no URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting, or a field of a request, has a value that cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The value and what is wrong with it.
        reason: String,
    },
    /// Too many URLs were made and not used; the oldest is forgotten within a minute.
    #[error("maximum number of in-flight requests exceeded")]
    TooMany,
    /// The certificate cannot be used.
    #[error("cannot use the certificate in {path:?}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}
