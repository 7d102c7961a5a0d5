//! A pod to test in, its containers in the kernel's words, and the base system's tools beside them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use host::run::Tool;
use runtime::spec::{ContainerSpec, Mount, MountOptions, MountSource, PodSpec, Propagation};

pub(crate) use crate::shared::{Bench, PATIENCE, eventually, readable};

impl Bench {
    /// A pod; None where this is not the backend.
    pub(crate) fn new(change: impl FnOnce(&mut PodSpec)) -> Option<Self> {
        Self::on("freebsd", change)
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        self.script(script, "/bin:/usr/bin:/sbin")
    }

    pub(crate) fn pod_jail(&self) -> String {
        format!("{}{}", self.settings.prefix, self.pod.short())
    }

    pub(crate) fn jail(&self, spec: &ContainerSpec) -> String {
        format!("{}.c{}", self.pod_jail(), spec.id.short())
    }

    /// Removes the pod; nothing of it is left in the kernel.
    pub(crate) fn remove(self) {
        self.runtime.remove_pod(&self.pod).unwrap();
        assert_eq!(self.runtime.inventory().unwrap(), runtime::Inventory::default());
        let directory = self.directory.path().canonicalize().unwrap();
        let mounts = tool("mount", &[]);
        assert!(!mounts.contains(directory.to_str().unwrap()), "{mounts}");
        let rules = tool("rctl", &[]);
        assert!(!rules.contains(&self.pod_jail()), "{rules}");
        eventually("the jail is gone", || !tool("jls", &["-d", "name"]).contains(self.pod.short()));
    }
}

pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    String::from_utf8(Tool::new(program).args(args).run().unwrap().stdout).unwrap()
}

pub(crate) fn read_until(output: &mut File, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0u8; 4096];
    while !text.contains(wanted) {
        assert!(readable(output, PATIENCE), "{wanted:?} does not come: {text:?}");
        let count = output.read(&mut chunk).unwrap();
        assert!(count > 0, "the end instead of {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    text
}

/// Puts a program of the host into a root, with its libraries.
pub(crate) fn add_program(root: &Path, program: &str) {
    let list = tool("ldd", &["-f", "%p\\n", program]);
    for file in list.lines().chain([program]).filter(|file| file.starts_with('/')) {
        let target = root.join(file.strip_prefix('/').unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

pub(crate) fn host_mount(source: impl Into<PathBuf>, destination: &str, readonly: bool) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Host(source.into()),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
    }
}

/// Whether a process of the host has this word in its command line.
pub(crate) fn runs(word: &str) -> bool {
    tool("ps", &["-axww", "-o", "command"]).lines().any(|line| line.contains(word) && !line.contains("ps -axww"))
}
