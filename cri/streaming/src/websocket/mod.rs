//! WebSocket as a server, with the channels that Kubernetes lays over it. Frames are read by this module rather than by a
//! library, because libraries hand out whole messages: here a message may be of any length and still only a fixed number of
//! its bytes is held.

mod codec;
mod frame;
mod session;

pub use codec::Codec;
pub use session::{Output, Session};
