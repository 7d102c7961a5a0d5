//! The backend's files about pods and containers, in its state directory: lost at a reboot, as they are.

use std::path::{Path, PathBuf};

use host::PodId;
use serde::{Deserialize, Serialize};

use super::userland::Release;
use crate::Error;
use crate::spec::Identity;

/// The version of [`ContainerRecord`].
const VERSION: u32 = 1;
/// A pod's spec, in its directory; the monitor reads that of a container elsewhere.
pub(super) const POD_SPEC: &str = "spec.json";
/// The resolv.conf of a pod's containers, in its directory.
pub(super) const RESOLV_CONF: &str = "resolv.conf";
/// The current limits of a pod or a container, in its directory.
const LIMITS: &str = "limits.json";
/// A container's record, in its directory. It is written last: a container that has one is whole.
pub(super) const CONTAINER_RECORD: &str = "freebsd.json";

/// The decisions of a container's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    version: u32,
    /// The name of its jail.
    pub(super) jail: String,
    /// The name of its pod's jail.
    pub(super) pod_jail: String,
    /// Its root: the rootfs, or a read-only mount of it.
    pub(super) root: PathBuf,
    /// The user and groups of its processes.
    pub(super) identity: Identity,
    /// The home directory of that user in the image.
    pub(super) home: String,
    /// The name of that user there; empty: none. An earlier server wrote none.
    #[serde(default)]
    pub(super) login: String,
    /// Its devfs ruleset; 0: none, it sees every device.
    pub(super) ruleset: u16,
    /// The tmpfs file systems that its memory is counted with, by their mount points on the host. An earlier server wrote none.
    #[serde(default)]
    pub(super) tmpfs: Vec<PathBuf>,
    /// The release of an older userland; None: its programs hear the kernel's. An earlier server wrote none.
    #[serde(default)]
    pub(super) release: Option<Release>,
}

impl ContainerRecord {
    /// The record of a container without a ruleset yet.
    pub(super) fn new(jail: String, pod_jail: String, root: PathBuf, identity: Identity) -> Self {
        Self {
            version: VERSION,
            jail,
            pod_jail,
            root,
            identity,
            home: "/".to_owned(),
            login: String::new(),
            ruleset: 0,
            tmpfs: Vec::new(),
            release: None,
        }
    }

    /// None: there is no whole container.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        Ok(host::json::read(&directory.join(CONTAINER_RECORD))?)
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        Ok(host::json::replace(&directory.join(CONTAINER_RECORD), self)?)
    }
}

/// The limits in a directory; without a file there are none.
pub(super) fn read_limits(directory: &Path) -> Result<super::limits::Limits, Error> {
    Ok(host::json::read(&directory.join(LIMITS))?.unwrap_or_default())
}

/// Replaces the limits in a directory, which a monitor watches.
pub(super) fn write_limits(directory: &Path, limits: &super::limits::Limits) -> Result<(), Error> {
    Ok(host::json::replace(&directory.join(LIMITS), limits)?)
}

/// The directory of a pod below the state directory.
pub(super) fn pod_directory(state: &Path, id: &PodId) -> PathBuf {
    state.join("pods").join(id.short())
}

/// The directory of a spare below the state directory.
pub(super) fn spare_directory(state: &Path, id: &PodId) -> PathBuf {
    state.join("spares").join(id.short())
}

/// The state directory of a container's directory.
pub(super) fn state_of(container: &Path) -> &Path {
    container.parent().and_then(Path::parent).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::{ContainerRecord, read_limits, write_limits};
    use crate::freebsd::limits::Limits;
    use crate::spec::Identity;

    #[test]
    fn facts_of_version_1_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"jail":"cb1.c2","pod_jail":"cb1","root":"/r","identity":{"uid":1,"gid":2,"groups":[2]},
            "home":"/","ruleset":7,"later":1}"#;
        std::fs::write(directory.path().join("freebsd.json"), text).unwrap();
        let identity = Identity { uid: 1, gid: 2, groups: vec![2] };
        let wanted = ContainerRecord {
            ruleset: 7,
            ..ContainerRecord::new("cb1.c2".into(), "cb1".into(), "/r".into(), identity)
        };
        assert_eq!(ContainerRecord::read(directory.path()).unwrap(), Some(wanted));
    }

    #[test]
    fn what_is_missing_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ContainerRecord::read(directory.path()).unwrap(), None);
        assert_eq!(read_limits(directory.path()).unwrap(), Limits::default());
    }

    #[test]
    fn what_was_written_is_read_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { memory: Some(5), ..Limits::default() };
        write_limits(directory.path(), &limits).unwrap();
        assert_eq!(read_limits(directory.path()).unwrap(), limits);
        assert_eq!(host::fs::entries(directory.path()).unwrap().len(), 1);
    }
}
