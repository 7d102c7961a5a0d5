//! The streaming server over real sockets, on the fake backend: with the real client library, with WebSocket clients of
//! another library, and with hostile clients.

#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

mod channels;
mod fixture;
mod hostile;
mod peer;
mod raw_client;
mod windows;
