//! A WebSocket server with Kubernetes's channels. This module parses frames itself because libraries return whole messages: here
//! a message may have any length and only a bounded part of it is buffered.

mod codec;
mod frame;
mod session;

pub use codec::Codec;
pub(crate) use session::Output;
pub use session::Session;
