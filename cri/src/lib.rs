//! The CRI server: kubelet's and crictl's requests, answered with the pods and containers of the backends.

pub mod admin;
pub mod answer;
pub mod capture;
pub mod check;
pub mod config;
pub mod connections;
pub mod deliver;
pub mod error;
pub mod events;
pub mod exits;
pub mod locks;
pub mod metrics;
pub mod names;
pub mod node;
pub mod record;
pub mod recover;
pub mod rpc;
pub mod samples;
pub mod serve;
pub mod server;
pub mod service;
pub mod snapshots;
pub mod spares;
mod status;
pub mod store;
pub mod teardown;
pub mod translate;
