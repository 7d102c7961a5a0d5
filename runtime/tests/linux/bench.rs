//! A pod to test in, and containers as a test wants them.

use std::panic::{AssertUnwindSafe, resume_unwind};

use runtime::spec::{ContainerSpec, PodSpec};
use runtime::{ContainerState, Started};

pub(crate) use crate::shared::{Bench, PATIENCE, eventually, logged, readable};

impl Bench {
    /// The start of a container that runs.
    pub(crate) fn started(&self, spec: &ContainerSpec) -> Started {
        match self.runtime.container_state(&spec.id).unwrap() {
            ContainerState::Running(started) => started,
            other => panic!("it does not run: {other:?}"),
        }
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        let mut spec = self.script(script, "/bin");
        spec.process.env.push(("GREETING".to_owned(), "hello".to_owned()));
        spec.security.masked_paths = vec!["/proc/keys".into()];
        spec.security.readonly_paths = vec!["/proc/sys".into()];
        spec
    }
}

/// Runs a test in a pod, which is removed also when the test fails; nothing runs where this is not the backend.
pub(crate) fn in_pod(change: impl FnOnce(&mut PodSpec), test: impl FnOnce(&Bench)) {
    let Some(bench) = Bench::on("linux", change) else { return };
    let failure = std::panic::catch_unwind(AssertUnwindSafe(|| test(&bench))).err();
    let removed = bench.runtime.remove_pod(&bench.pod);
    if let Some(failure) = failure {
        resume_unwind(failure);
    }
    removed.unwrap();
    assert_eq!(bench.runtime.inventory().unwrap(), runtime::Inventory::default());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(bench.directory.path().to_str().unwrap()), "{mounts}");
}
