//! The place of a pod, which runtime tells network: the two crates do not know each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The place of a pod's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A VNET jail with this name (FreeBSD).
    Jail(String),
    /// A network namespace pinned at this path (Linux).
    Netns(PathBuf),
    /// The host's network: nothing is attached.
    Host,
}
