//! Images: references, pulls from registries into a store addressed by digest, what they use, and the root file systems that
//! containers get from them.

mod error;
pub mod rootfs;

pub use error::Error;

/// What an image says of the containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// What stands before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments of a container that gives none.
    pub cmd: Vec<String>,
    /// Where the program starts; empty: `/`.
    pub working_dir: String,
    /// The signal that stops the program, by name or number.
    pub stop_signal: Option<String>,
    /// `linux`, `freebsd`.
    pub os: String,
}
