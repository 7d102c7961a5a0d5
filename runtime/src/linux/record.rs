//! What the monitor must know of a container beside its spec, computed once when it is made.

use std::path::{Path, PathBuf};

use host::PodId;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The file in the container's directory; it is written last, so a container that has one is whole.
pub(super) const FILE: &str = "launch.json";

/// How a container is run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    /// The pod it is in.
    pub(super) pod: PodId,
    /// The backend's state directory.
    pub(super) state: PathBuf,
    /// The container's name in runc.
    pub(super) name: String,
    /// Its cgroup, from the root of the hierarchies.
    pub(super) cgroup: PathBuf,
}

impl ContainerRecord {
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        Ok(host::json::replace(&directory.join(FILE), self)?)
    }

    /// None: the container is not whole, or not there.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        Ok(host::json::read(&directory.join(FILE))?)
    }
}
