//! The record of a container, which its monitor reads beside the spec.

use std::path::{Path, PathBuf};

use host::PodId;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Its file in the container's directory, written last: a container that has one is whole.
pub(super) const FILE: &str = "launch.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) pod: PodId,
    /// The backend's state directory.
    pub(super) state: PathBuf,
    /// The container's name in runc.
    pub(super) name: String,
    /// Its cgroup, as a path from the root of the hierarchies.
    pub(super) cgroup: PathBuf,
}

impl ContainerRecord {
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        Ok(host::json::replace(&directory.join(FILE), self)?)
    }

    /// None: there is no whole container.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        Ok(host::json::read(&directory.join(FILE))?)
    }
}
