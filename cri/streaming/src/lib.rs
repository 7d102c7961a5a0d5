//! Exec, attach and port-forward: kubelet, crictl and kubectl open the URLs that the RPCs of these names return.
//!
//! A client upgrades an HTTP request to SPDY/3.1 or WebSocket and gets streams of bytes: those of a process, or of connections
//! into a pod. Each stream buffers a bounded number of bytes and the connection none: a process that writes faster than its
//! client reads blocks in write(2), and a client that sends faster than its process reads blocks on its socket.

mod channel;
mod command;
mod connection;
mod descriptor;
mod error;
mod forward;
mod idle;
mod input;
mod negotiate;
mod process;
mod server;
mod spdy;
mod status;
mod tls;
mod token;
mod tunnel;
mod websocket;
mod wire;

pub use command::Command;
pub use error::Error;
pub use forward::Forward;
pub use server::{CONNECTIONS, Server, Settings};
pub use tls::Certificate;

/// The protocols without the server, for the fuzz targets and for the raw client of the tests. No stable interface.
#[doc(hidden)]
pub mod protocol {
    pub use crate::spdy::{Inflater, Limits, Session as SpdySession, frame as spdy_frame};
    pub use crate::websocket::{Codec, Session as WebSocketSession};
    pub use crate::wire::Chunk;
}
