//! What the monitor must know of a container beside its spec, computed once when it is made.

use std::io;
use std::path::{Path, PathBuf};

use host::PodId;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The file in the container's directory; it is written last, so a container that has one is whole.
const FILE: &str = "launch.json";

/// How a container is run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The pod it is in.
    pub(super) pod: PodId,
    /// The backend's state directory.
    pub(super) state: PathBuf,
    /// The container's name in runc.
    pub(super) name: String,
    /// Its cgroup, from the root of the hierarchies.
    pub(super) cgroup: PathBuf,
}

impl Plan {
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(FILE);
        let temporary = directory.join(".launch");
        let text = serde_json::to_vec(self).map_err(Error::failed("cannot encode a container's plan"))?;
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(Error::failed(format!("cannot write {}", path.display())))
    }

    /// None: the container is not whole, or not there.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE);
        let operation = || Error::failed(format!("cannot read {}", path.display()));
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| operation()(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(operation()(error)),
        }
    }
}
