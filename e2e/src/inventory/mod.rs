//! The inventory of this machine: processes, mounts, interfaces, other kernel objects and the directories of a run, one line each.
//! After a run it is compared with the one before.

mod freebsd;
mod linux;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::server::Site;

/// How long removals may take to finish.
const SETTLE: Duration = Duration::from_secs(15);
/// The variable that is set on a shared machine: then only objects of this run count.
const SHARED: &str = "CELLBLOCK_E2E_SHARED";

/// One line for each object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Takes the inventory.
    pub fn take(site: &Site) -> Result<Self> {
        let lines = if std::env::consts::OS == "freebsd" { freebsd::lines()? } else { linux::lines(site.dir())? };
        let mut inventory = Self(lines);
        inventory.add_directories(site);
        Ok(inventory)
    }

    /// Adds the directories of a server without pods, after its first start.
    pub fn add_directories(&mut self, site: &Site) {
        directories(&site.state(), &mut |path| {
            self.0.insert(format!("directory {}", path.display()));
        });
    }

    /// The objects that were not in `then`.
    fn added(&self, then: &Self, site: &Site) -> Vec<String> {
        let shared = std::env::var_os(SHARED).is_some();
        let ours = |line: &&String| is_of(line, site) || !(shared || is_of_the_machine(line));
        self.0.difference(&then.0).filter(ours).cloned().collect()
    }

    /// Waits until no object is new since `then`; returns those that stay.
    pub fn left(then: &Self, site: &Site) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let added = Self::take(site)?.added(then, site);
            if added.is_empty() || start.elapsed() > SETTLE {
                return Ok(added);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Returns an error if an object is new since `then`.
    pub fn unchanged_since(then: &Self, site: &Site) -> Result<()> {
        let left = Self::left(then, site)?;
        ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        Ok(())
    }
}

/// Whether a line names this run's directory, or a kernel object that begins with its prefix.
fn is_of(line: &str, site: &Site) -> bool {
    let in_a_jail = format!("(jail {}", site.prefix());
    if line.contains(&*site.dir().to_string_lossy()) || line.contains(&in_a_jail) {
        return true;
    }
    let (kind, rest) = line.rsplit_once(' ').unwrap_or_default();
    let table = format!("cellblock-{}", site.prefix());
    match kind {
        "interface" | "network namespace" | "jail" => rest.starts_with(site.prefix()),
        _ => ["nftables", "cgroup", "anchor"].iter().any(|of| line.starts_with(of)) && line.contains(&table),
    }
}

/// Whether a line is a process or a cgroup of the machine itself, which may come and go during a run. Containers' processes are
/// recognised by their root, workers by their names.
fn is_of_the_machine(line: &str) -> bool {
    let coming_and_going = line.starts_with("process ") || line.starts_with("cgroup ");
    // The registry is e2e's own: the soak restarts it, and its owner stops it.
    let registry = line.contains(" docker-registry ");
    coming_and_going && (registry || !["cellblock", "runc", "crictl", "critest"].iter().any(|own| line.contains(own)))
}

/// All directories below this one.
fn directories(dir: &Path, found: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found(&entry.path());
            directories(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_of_the_machine;

    #[test]
    fn only_processes_and_cgroups_of_others_come_and_go() {
        for (line, of_the_machine) in [
            ("process 12 /usr/sbin/cron -f ", true),
            ("cgroup /sys/fs/cgroup/memory/process_api/1", true),
            ("process 13 /tmp/cellblock monitor container /x ", false),
            ("process 14 runc run ", false),
            ("process 15 docker-registry serve /var/tmp/cellblock-e2e-1/registry.yml ", true),
            ("cgroup /sys/fs/cgroup/pids/cellblock-ec", false),
            ("mount /somewhere none", false),
            ("interface veth0", false),
        ] {
            assert_eq!(is_of_the_machine(line), of_the_machine, "{line}");
        }
    }
}
