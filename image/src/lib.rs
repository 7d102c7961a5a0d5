//! Images: references, pulls from registries into a content-addressed store, usage, garbage collection, and the root file systems
//! of containers.

mod archive;
mod arrivals;
mod blobs;
mod credentials;
mod digest;
mod docker;
mod document;
mod durable;
mod error;
mod fetch;
mod flow;
mod garbage;
mod hosts;
mod images;
mod ingest;
mod json;
mod layers;
mod locks;
mod memory;
mod platform;
mod progress;
mod pull;
mod records;
mod reference;
mod registry;
pub mod rootfs;
mod settle;
mod sys;
pub mod unpack;
mod unsettled;
mod volume;

pub use credentials::Credentials;
pub use digest::{Algorithm, Digest, Hash};
pub use document::{Blob, Config, Document, ImageConfig, parse_config, parse_manifest};
pub use error::Error;
pub use hosts::{Endpoint, Parsed as ParsedHosts, parse as parse_hosts};
pub use images::{Image, Images, Settings};
pub use platform::Platform;
pub use progress::{Observer, Phase, Progress};
pub use reference::{Reference, Target};
pub use rootfs::FsUsage;
