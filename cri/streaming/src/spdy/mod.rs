//! SPDY/3.1 as a server: what kubelet, crictl and kubectl speak to a container runtime, over any connection. It knows
//! nothing of containers. Malformed input ends a stream or the connection, by the rules of the draft; nothing that a peer
//! sends makes it hold more than [`Limits`] allow.

mod dictionary;
pub mod frame;
mod headers;
mod reader;
mod session;
mod table;

pub use headers::{Headers, Inflater};
pub use session::{IncomingStream, Limits, Output, Session, Stream};
