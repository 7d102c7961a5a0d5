//! The backend's records, in a directory that a reboot empties: one directory per pod or spare, created before any
//! kernel object and removed after all of them. It holds the pod's spec and the listener's lock and process id.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::PodId;
use serde::{Deserialize, Serialize};

use crate::{Error, NetworkSpec};

/// The version of [`Stored`]. A listener that outlives an upgrade reads what its own server wrote.
const VERSION: u32 = 1;
/// The file of the spec.
const SPEC: &str = "spec.json";

/// The content of [`SPEC`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    network: NetworkSpec,
    /// Whether the host routes its addresses to it. Older servers put pods on the bridge and did not write this.
    #[serde(default)]
    routed: bool,
}

/// The records of all pods.
#[derive(Debug, Clone)]
pub(crate) struct State {
    directory: PathBuf,
    /// Those that this server has written or read: nobody else writes them, and all are looked at every few seconds.
    known: Arc<Mutex<BTreeMap<PodId, Stored>>>,
}

impl State {
    /// Opens the directory and creates it if missing.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |error| Error::failed(format!("cannot create {}", directory.display()))(error);
        fs::create_dir_all(directory).map_err(failed)?;
        Ok(Self { directory: directory.to_owned(), known: Arc::default() })
    }

    /// Returns a pod's directory.
    pub(crate) fn directory_of(&self, id: &PodId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// Creates the record of a pod or spare without a spec. Idempotent.
    pub(crate) fn add(&self, id: &PodId) -> Result<(), Error> {
        let path = self.directory_of(id);
        fs::create_dir_all(&path).map_err(Error::failed(format!("cannot create {}", path.display())))
    }

    /// Writes a pod's spec.
    pub(crate) fn save(&self, spec: &NetworkSpec) -> Result<(), Error> {
        self.add(&spec.id)?;
        let path = self.directory_of(&spec.id).join(SPEC);
        let stored = Stored { version: VERSION, network: spec.clone(), routed: true };
        let mut known = self.known();
        // A write that fails may have replaced the file.
        known.remove(&spec.id);
        host::json::replace(&path, &stored)?;
        known.insert(spec.id.clone(), stored);
        Ok(())
    }

    /// Reads a pod's spec; None for a spare or an unknown pod.
    pub(crate) fn load(&self, id: &PodId) -> Result<Option<NetworkSpec>, Error> {
        Ok(self.load_routed(id)?.map(|(spec, _)| spec))
    }

    /// Reads a pod's spec, with whether it is routed.
    pub(crate) fn load_routed(&self, id: &PodId) -> Result<Option<(NetworkSpec, bool)>, Error> {
        let mut known = self.known();
        if !known.contains_key(id) {
            known.extend(read(&self.directory_of(id))?.map(|stored| (id.clone(), stored)));
        }
        Ok(known.get(id).map(|stored| (stored.network.clone(), stored.routed)))
    }

    /// Locked while the files change.
    fn known(&self) -> MutexGuard<'_, BTreeMap<PodId, Stored>> {
        // What is missing after a panic is read again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a pod's record, once its kernel objects are gone. Idempotent.
    pub(crate) fn remove(&self, id: &PodId) -> Result<(), Error> {
        let path = self.directory_of(id);
        let mut known = self.known();
        known.remove(id);
        host::fs::remove_dir_all(&path).map_err(Error::failed(format!("cannot remove {}", path.display())))
    }

    /// Lists the recorded pods and spares.
    pub(crate) fn pods(&self) -> Result<Vec<PodId>, Error> {
        let paths = host::fs::entries(&self.directory)?;
        Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// Reads every spec. Logs and skips an unreadable one, so that the other pods keep working.
    pub(crate) fn specs(&self) -> Result<Vec<NetworkSpec>, Error> {
        let mut specs = Vec::new();
        for id in self.pods()? {
            match self.load(&id) {
                Ok(spec) => specs.extend(spec),
                Err(error) => tracing::warn!(pod = %id, error = host::chain(&error), "a pod's network is unreadable"),
            }
        }
        Ok(specs)
    }
}

/// Reads the spec in a pod's directory.
pub(crate) fn load(directory: &Path) -> Result<Option<NetworkSpec>, Error> {
    Ok(read(directory)?.map(|stored| stored.network))
}

fn read(directory: &Path) -> Result<Option<Stored>, Error> {
    let path = directory.join(SPEC);
    let Some(stored) = host::json::read::<Stored>(&path)? else { return Ok(None) };
    if stored.version != VERSION {
        let reason = format!("the version is {}, not {VERSION}", stored.version);
        return Err(Error::failed(format!("cannot read {}", path.display()))(reason));
    }
    Ok(Some(stored))
}

#[cfg(test)]
mod tests {
    use host::PodId;

    use super::State;
    use crate::{HostPort, NetworkSpec, Protocol};

    /// As version 1 was written: a change of the type must still read it.
    const VERSION_1: &str = r#"{"version":1,"network":{"id":"ID","addresses":["10.1.0.2/16","fd00::2/64"],
        "route":true,"host_ports":[{"protocol":"sctp","host_ip":"::1","host_port":1,"container_port":2}]}}"#;

    #[test]
    fn a_pod_is_remembered_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("network")).unwrap();
        let id = PodId::random();
        state.add(&id).unwrap();
        assert_eq!(state.load(&id).unwrap(), None);
        let port = HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 1, container_port: 2 };
        let spec = NetworkSpec {
            id: id.clone(),
            addresses: vec!["10.1.0.2/16".parse().unwrap()],
            route: true,
            keeps_source: false,
            lent: None,
            host_ports: vec![port],
            firewall: crate::Firewall::Open,
        };
        state.save(&spec).unwrap();
        assert_eq!(state.specs().unwrap(), [spec]);
        assert_eq!(state.pods().unwrap(), std::slice::from_ref(&id));
        state.remove(&id).unwrap();
        state.remove(&id).unwrap();
        assert_eq!(state.pods().unwrap(), []);
    }

    #[test]
    fn version_one_is_read_and_a_newer_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let id = PodId::random();
        state.add(&id).unwrap();
        let text = VERSION_1.replace("ID", id.as_str());
        std::fs::write(state.directory_of(&id).join("spec.json"), &text).unwrap();
        let (read, routed) = state.load_routed(&id).unwrap().unwrap();
        assert_eq!(read.host_ports[0].protocol, Protocol::Sctp);
        assert!(!routed, "it is on the bridge");
        state.save(&read).unwrap();
        assert_eq!(state.load_routed(&id).unwrap(), Some((read.clone(), true)));
        std::fs::remove_file(state.directory_of(&id).join("spec.json")).unwrap();
        assert_eq!(state.load(&id).unwrap(), Some(read), "it is not read again");
        let state = State::open(directory.path()).unwrap();
        std::fs::write(state.directory_of(&id).join("spec.json"), text.replace("\"version\":1", "\"version\":2"))
            .unwrap();
        assert!(host::chain(&state.load(&id).unwrap_err()).contains("the version is 2"));
        assert_eq!(state.specs().unwrap(), []);
        assert_eq!(state.pods().unwrap(), [id]);
    }
}
