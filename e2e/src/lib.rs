//! The end-to-end tests: the programs that they use, a registry with test images, and the scenarios.

pub mod archives;
pub mod base_images;
pub mod checks;
pub mod client;
pub mod containerd;
pub mod critest;
pub mod crowd;
pub mod dns;
pub mod grpcio;
pub mod images;
pub mod inventory;
pub mod kubernetes;
pub mod pods;
mod ports;
pub mod process;
pub mod pulls;
pub mod random;
pub mod registry;
pub mod scenario;
pub mod server;
pub mod soak;
pub mod specs;
pub mod streaming;
pub mod tools;
mod wait;
