//! The record of a container, which its monitor reads beside the spec.

use std::path::{Path, PathBuf};

use host::PodId;
use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchies;
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
    /// The hierarchies, which its monitor need not find again. An earlier server wrote none.
    #[serde(default)]
    pub(super) hierarchies: Option<Hierarchies>,
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

#[cfg(test)]
mod tests {
    use super::ContainerRecord;
    use crate::linux::cgroup::Hierarchies;

    #[test]
    fn a_record_of_an_earlier_server_has_no_hierarchies() {
        let text = |more: &str| {
            let pod = "1".repeat(64);
            format!(r#"{{"pod":"{pod}","state":"/s","name":"cb1","cgroup":"/c"{more}}}"#)
        };
        let read = |more: &str| serde_json::from_str::<ContainerRecord>(&text(more)).unwrap().hierarchies;
        assert_eq!(read(""), None);
        assert_eq!(read(r#","hierarchies":{"v2":"/sys/fs/cgroup"}"#), Some(Hierarchies::V2("/sys/fs/cgroup".into())));
        let first = Hierarchies::V1([("memory".to_owned(), "/m".into())].into());
        assert_eq!(read(r#","hierarchies":{"v1":{"memory":"/m"}}"#), Some(first));
    }
}
