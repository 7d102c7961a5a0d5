//! The directories and names of pods and containers, computed from the state directory, the prefix and the id alone.

use std::path::{Path, PathBuf};

use host::{ContainerId, PodId, Prefix};

/// The backend's directories and names.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) state: PathBuf,
    prefix: Prefix,
}

impl Names {
    pub(super) fn new(state: &Path, prefix: &Prefix) -> Self {
        Self { state: state.to_owned(), prefix: prefix.clone() }
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    pub(super) fn pod(&self, id: &PodId) -> PathBuf {
        self.pods().join(id.short())
    }

    /// The container's name in runc.
    pub(super) fn runc(&self, id: &ContainerId) -> String {
        format!("{}{}", self.prefix, id.short())
    }

    /// The parent cgroup of the pods that name none.
    pub(super) fn root_cgroup(&self) -> PathBuf {
        PathBuf::from(format!("/cellblock-{}", self.prefix))
    }

    /// The cgroup of a pod that names no parent.
    pub(super) fn pod_cgroup(&self, id: &PodId) -> PathBuf {
        self.root_cgroup().join(id.short())
    }
}

/// The pins of a pod's namespaces, by the names of the runtime specification.
pub(super) const PINS: [(&str, &str); 3] = [("network", "net"), ("uts", "uts"), ("ipc", "ipc")];
/// The pin of the process namespace that a pod's containers share.
pub(super) const PID_PIN: &str = "pid";
/// The pid of the init in that namespace.
pub(super) const INIT_PID: &str = "init.pid";
/// The directory that is /dev/shm.
pub(super) const SHM: &str = "shm";
/// The pod's spec.
pub(super) const SPEC: &str = "spec.json";
/// Written last when a pod is created: it is whole.
pub(super) const WHOLE: &str = "whole";
