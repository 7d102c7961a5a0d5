//! A SPDY/3.1 server for kubelet, crictl and kubectl, over any connection; it knows nothing of containers. Malformed input ends
//! a stream or the connection, by the rules of the draft, and a peer cannot make it hold more than [`Limits`] allow.

mod dictionary;
pub mod frame;
mod headers;
mod reader;
mod session;
mod table;

pub(crate) use headers::Headers;
pub use headers::Inflater;
pub(crate) use session::{IncomingStream, Output, Stream};
pub use session::{Limits, Session};
