//! Images: references, pulls from registries into a store addressed by digest, what they use, and the root file systems that
//! containers get from them.

mod error;
pub mod rootfs;

pub use error::Error;
