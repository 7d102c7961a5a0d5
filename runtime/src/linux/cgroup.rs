//! The cgroups of pods and containers (cgroups(7)), in version 1 (one hierarchy per controller) and version 2 (one for all):
//! their directories and processes, killing, and removal. runc sets the limits.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::Failures;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The limit for the end of killed processes.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The rounds of killing before the cgroup is frozen between them: only a fork bomb needs it.
const ROUNDS_UNFROZEN: u32 = 20;
/// The version 1 hierarchies that list all processes of a container, the best first.
const TRACKING: [&str; 4] = ["freezer", "pids", "memory", "devices"];

/// The hierarchies of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hierarchies {
    /// The mount point of each controller.
    V1(BTreeMap<String, PathBuf>),
    /// The mount point.
    V2(PathBuf),
}

impl Hierarchies {
    /// Finds the mounted hierarchies; an error without the memory controller.
    pub(super) fn find() -> Result<Self, Error> {
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            return Ok(Self::V2(root.to_owned()));
        }
        let operation = || Error::failed("cannot find the cgroup hierarchies");
        let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(operation())?;
        let found = controllers(&mounts);
        if found.contains_key("memory") {
            Ok(Self::V1(found))
        } else {
            Err(operation()(io::Error::other(format!("no hierarchy with the memory controller is mounted at {ROOT}"))))
        }
    }

    /// Whether they are still mounted. Cheap, whereas finding them reads the list of all mounts.
    pub(super) fn are_mounted(&self) -> bool {
        match self {
            Self::V2(root) => root.join("cgroup.controllers").exists(),
            Self::V1(roots) => roots.get("memory").is_some_and(|root| root.join("cgroup.procs").exists()),
        }
    }

    /// The directories of a cgroup in all hierarchies, given its path from the root.
    pub(super) fn directories(&self, cgroup: &Path) -> Vec<PathBuf> {
        let below = cgroup.strip_prefix("/").unwrap_or(cgroup);
        match self {
            Self::V2(root) => vec![root.join(below)],
            Self::V1(roots) => {
                let mut all: Vec<PathBuf> = roots.values().map(|root| root.join(below)).collect();
                all.dedup();
                all
            }
        }
    }

    /// The directory of one controller (in version 2 of all).
    pub(super) fn directory(&self, controller: &str, cgroup: &Path) -> Option<PathBuf> {
        let below = cgroup.strip_prefix("/").unwrap_or(cgroup);
        match self {
            Self::V2(root) => Some(root.join(below)),
            Self::V1(roots) => Some(roots.get(controller)?.join(below)),
        }
    }

    /// The controller whose hierarchy lists processes; empty in version 2.
    pub(super) fn tracking(&self) -> &'static str {
        match self {
            Self::V2(_) => "",
            Self::V1(roots) => TRACKING.into_iter().find(|name| roots.contains_key(*name)).unwrap_or("memory"),
        }
    }

    /// Kills every process in a cgroup and below it, and returns when none is left. Idempotent.
    pub(super) fn kill(&self, cgroup: &Path) -> Result<(), Error> {
        let Some(directory) = self.directory(self.tracking(), cgroup) else { return Ok(()) };
        let operation = || Error::failed(format!("cannot kill the processes of {}", directory.display()));
        let until = Instant::now() + KILL_WAIT;
        for round in 0.. {
            let processes = processes(&directory).map_err(operation())?;
            if processes.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(operation()(io::Error::other(format!("these do not die: {processes:?}"))));
            }
            let frozen = round >= ROUNDS_UNFROZEN && self.freeze(&directory, true);
            self.kill_once(&directory, &processes);
            if frozen {
                self.freeze(&directory, false);
            }
            if round > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn kill_once(&self, directory: &Path, processes: &[i32]) {
        // cgroup.kill (Linux 5.14) kills all of them at once.
        if matches!(self, Self::V2(_)) && std::fs::write(directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        for process in processes {
            let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
        }
    }

    /// Freezes or thaws a cgroup; false: the kernel cannot, and killing goes on without.
    fn freeze(&self, directory: &Path, frozen: bool) -> bool {
        let (file, value) = match (self, frozen) {
            (Self::V2(_), true) => ("cgroup.freeze", "1"),
            (Self::V2(_), false) => ("cgroup.freeze", "0"),
            (Self::V1(_), true) => ("freezer.state", "FROZEN"),
            (Self::V1(_), false) => ("freezer.state", "THAWED"),
        };
        std::fs::write(directory.join(file), value).is_ok()
    }

    /// Removes a cgroup without processes and all below it from every hierarchy. Idempotent.
    pub(super) fn remove(&self, cgroup: &Path) -> Result<(), Error> {
        let mut failures = Failures::<Error>::default();
        for directory in self.directories(cgroup) {
            let removed = remove_tree(&directory);
            failures.keep(removed.map_err(Error::failed(format!("cannot remove cgroup {}", directory.display()))));
        }
        failures.result(Error::failed(format!("cannot remove cgroup {}", cgroup.display())))
    }

    /// Removes the empty directories of a cgroup, such as the parent of a pod's cgroup after the last pod.
    pub(super) fn remove_if_empty(&self, cgroup: &Path) {
        for directory in self.directories(cgroup) {
            // The cgroups or processes of others keep a directory.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// The name of the version 2 hierarchy beside those of version 1: it has no controllers, but runc puts containers' processes
/// into it too.
const BESIDE: &str = "unified";

/// The version 1 controllers of /proc/self/mounts, with their mount points.
fn controllers(mounts: &str) -> BTreeMap<String, PathBuf> {
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 3);
    let mut found = BTreeMap::new();
    for fields in lines {
        match fields[2] {
            "cgroup" => {}
            "cgroup2" => {
                found.insert(BESIDE.to_owned(), PathBuf::from(fields[1]));
                continue;
            }
            _ => continue,
        }
        let not_controllers = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr"];
        for option in fields[3].split(',').filter(|option| !not_controllers.contains(option)) {
            if !option.contains('=') || option.starts_with("name=") {
                found.insert(option.trim_start_matches("name=").to_owned(), PathBuf::from(fields[1]));
            }
        }
    }
    found
}

/// The processes in a cgroup and below it; a missing cgroup has none.
pub(super) fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    match std::fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if gone(&error) => return Ok(all),
        Err(error) => return Err(error),
    }
    for child in children(directory)? {
        all.extend(processes(&child)?);
    }
    Ok(all)
}

/// Moves every process of a cgroup to another of the same hierarchy.
pub(super) fn move_processes(from: &Path, to: &Path) -> io::Result<()> {
    for process in processes(from)? {
        let _ = std::fs::write(to.join("cgroup.procs"), process.to_string());
    }
    Ok(())
}

/// Removes a cgroup and all below it. Processes that were just killed may keep it busy for a moment.
pub(super) fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in children(directory)? {
        remove_tree(&child)?;
    }
    let until = Instant::now() + KILL_WAIT;
    loop {
        match std::fs::remove_dir(directory) {
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect())
}

/// ENODEV: the cgroup was removed between opening and reading its file.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Hierarchies, controllers};

    #[test]
    fn controllers_are_found_where_they_are_mounted() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n\
            proc /proc proc rw 0 0\n";
        let found = controllers(mounts);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "systemd", "unified"]);
        let v1 = Hierarchies::V1(found);
        assert!(v1.directories(Path::new("/a")).contains(&PathBuf::from("/sys/fs/cgroup/unified/a")));
        assert_eq!(v1.directory("cpu", Path::new("/a/b")), Some(PathBuf::from("/sys/fs/cgroup/cpu/a/b")));
        assert_eq!(v1.directory("memory", Path::new("/a")), None);
    }
}
