//! The streaming server over real sockets, on the fake backend: with the real client library, with WebSocket clients of
//! another library, and with clients that mean no good.

mod peer;
mod scene;
