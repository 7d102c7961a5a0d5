//! The CRI server: kubelet's and crictl's requests, answered with the pods and containers of the backends.

pub mod config;
pub mod error;
pub mod lifecycle;
pub mod rpc;
pub mod server;
pub mod state;
mod status;
pub mod translate;
