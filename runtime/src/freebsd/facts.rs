//! What the backend keeps on disk about pods and containers, in its state directory: lost at a reboot, as they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host::PodId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::spec::Identity;

/// The version of [`Facts`].
const VERSION: u32 = 1;
/// A pod's spec, in its directory; a container's stands where the monitor reads it.
pub(super) const POD_SPEC: &str = "spec.json";
/// The resolv.conf of a pod's containers, in its directory.
pub(super) const RESOLV_CONF: &str = "resolv.conf";
/// The limits of a pod or a container as they are now, in its directory.
const LIMITS: &str = "limits.json";
/// A container's facts, in its directory: the last thing that is written when it is made.
const FACTS: &str = "freebsd.json";

/// What was decided when a container was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    version: u32,
    /// The name of its jail.
    pub(super) jail: String,
    /// The name of its pod's jail.
    pub(super) pod_jail: String,
    /// Its root: what the image crate prepared, or a read-only mount of it.
    pub(super) root: PathBuf,
    /// Who its processes run as.
    pub(super) identity: Identity,
    /// The home directory of that user in the image.
    pub(super) home: String,
    /// Its devfs ruleset; 0: none, every device is seen.
    pub(super) ruleset: u16,
}

impl Facts {
    /// The facts of a container without a ruleset yet.
    pub(super) fn new(jail: String, pod_jail: String, root: PathBuf, identity: Identity) -> Self {
        Self { version: VERSION, jail, pod_jail, root, identity, home: "/".to_owned(), ruleset: 0 }
    }

    /// Reads them; None: the container was never made to the end.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        read(&directory.join(FACTS))
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        write(&directory.join(FACTS), self)
    }
}

/// The limits in a directory; none written: none.
pub(super) fn read_limits(directory: &Path) -> Result<super::limits::Limits, Error> {
    Ok(read(&directory.join(LIMITS))?.unwrap_or_default())
}

/// Replaces the limits in a directory: a monitor sees the directory change.
pub(super) fn write_limits(directory: &Path, limits: &super::limits::Limits) -> Result<(), Error> {
    write(&directory.join(LIMITS), limits)
}

/// The directory of a pod below the state directory.
pub(super) fn pod_directory(state: &Path, id: &PodId) -> PathBuf {
    state.join("pods").join(id.short())
}

/// The directory of a spare likewise.
pub(super) fn spare_directory(state: &Path, id: &PodId) -> PathBuf {
    state.join("spares").join(id.short())
}

/// The state directory that a container's directory is in.
pub(super) fn state_of(container: &Path) -> &Path {
    container.parent().and_then(Path::parent).unwrap_or(Path::new("/"))
}

/// Reads a file of JSON; None: it is not there.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::failed(format!("cannot read {}", path.display()))(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(Error::failed(format!("cannot read {}", path.display())))
}

/// Writes a file of JSON so that a reader sees the old text or the new one.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let failed = || format!("cannot write {}", path.display());
    let text = serde_json::to_vec(value).map_err(Error::failed(failed()))?;
    host::fs::replace(path, &text, 0o600).map_err(Error::failed(failed()))
}

/// The names in a directory; one that is not there has none.
pub(super) fn entries(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = || format!("cannot list {}", directory.display());
    let list = match fs::read_dir(directory) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::failed(failed())(error)),
    };
    let names = list.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(Error::failed(failed()))
}

#[cfg(test)]
mod tests {
    use super::{Facts, entries, read, read_limits, write, write_limits};
    use crate::freebsd::limits::Limits;
    use crate::spec::Identity;

    #[test]
    fn facts_of_version_1_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"jail":"cb1.c2","pod_jail":"cb1","root":"/r","identity":{"uid":1,"gid":2,"groups":[2]},
            "home":"/","ruleset":7,"later":1}"#;
        std::fs::write(directory.path().join("freebsd.json"), text).unwrap();
        let identity = Identity { uid: 1, gid: 2, groups: vec![2] };
        let wanted = Facts { ruleset: 7, ..Facts::new("cb1.c2".into(), "cb1".into(), "/r".into(), identity) };
        assert_eq!(Facts::read(directory.path()).unwrap(), Some(wanted));
    }

    #[test]
    fn what_is_missing_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Facts::read(directory.path()).unwrap(), None);
        assert_eq!(read_limits(directory.path()).unwrap(), Limits::default());
        assert!(entries(&directory.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn what_was_written_is_read_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { memory: Some(5), ..Limits::default() };
        write_limits(directory.path(), &limits).unwrap();
        write(&directory.path().join("a"), &3).unwrap();
        assert_eq!(read_limits(directory.path()).unwrap(), limits);
        assert_eq!(read::<u8>(&directory.path().join("a")).unwrap(), Some(3));
        assert_eq!(entries(directory.path()).unwrap().len(), 2);
    }
}
