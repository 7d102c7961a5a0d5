//! The CRI server: kubelet's and crictl's requests, answered with the pods and containers of the backends.

pub mod config;
pub mod demo;
pub mod streaming;
pub mod translate;
