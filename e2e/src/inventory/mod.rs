//! What this machine holds: processes, mounts, interfaces, namespaces, nftables rules, cgroups and directories of a run, one
//! line each, so that after a run the inventory can be held against the one before it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::process::Program;
use crate::server::Site;

/// How long what is being removed may still be seen.
const SETTLE: Duration = Duration::from_secs(15);
/// Set on a machine where others make kernel objects at the same time: only those of this run count then.
const SHARED: &str = "CELLBLOCK_E2E_SHARED";

/// One line for everything that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Looks.
    pub fn take(site: &Site) -> Result<Self> {
        let mut lines = BTreeSet::new();
        processes(&mut lines, site.dir());
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            lines.insert(format!("mount {} {}", fields.get(4).unwrap_or(&""), fields.last().unwrap_or(&"")));
        }
        for (kind, dir) in [("interface", "/sys/class/net"), ("network namespace", "/run/netns")] {
            lines.extend(names(Path::new(dir)).map(|name| format!("{kind} {name}")));
        }
        for rule in
            Program::new("nft", ["list", "ruleset"]).run()?.lines().filter(|line| !line.contains("counter packets"))
        {
            lines.insert(format!("nftables {}", rule.trim()));
        }
        directories(Path::new("/sys/fs/cgroup"), &mut |path| {
            lines.insert(format!("cgroup {}", path.display()));
        });
        let mut inventory = Self(lines);
        inventory.add_directories(site);
        Ok(inventory)
    }

    /// Adds the directories that a server without pods has: after its first start.
    pub fn add_directories(&mut self, site: &Site) {
        directories(&site.state(), &mut |path| {
            self.0.insert(format!("directory {}", path.display()));
        });
    }

    /// What is there now and was not then.
    fn added(&self, then: &Self, site: &Site) -> Vec<String> {
        let shared = std::env::var_os(SHARED).is_some();
        let ours = |line: &&String| is_of(line, site) || !(shared || is_of_the_machine(line));
        self.0.difference(&then.0).filter(ours).cloned().collect()
    }

    /// Waits until nothing is there that was not there then; what is there all the same.
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

    /// An error when something stays that was not there then.
    pub fn unchanged_since(then: &Self, site: &Site) -> Result<()> {
        let left = Self::left(then, site)?;
        ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        Ok(())
    }
}

/// Whether a line names this run's directory, or a kernel object that begins with its prefix.
fn is_of(line: &str, site: &Site) -> bool {
    if line.contains(&*site.dir().to_string_lossy()) {
        return true;
    }
    let (kind, rest) = line.rsplit_once(' ').unwrap_or_default();
    let table = format!("cellblock-{}", site.prefix());
    match kind {
        "interface" | "network namespace" => rest.starts_with(site.prefix()),
        _ => ["nftables", "cgroup"].iter().any(|of| line.starts_with(of)) && line.contains(&table),
    }
}

/// Whether a line is a process or a cgroup that no part of Cellblock can have made: a machine starts and ends such of its own
/// while a run goes on. Those of a container are told by their root, those of the workers by their names.
fn is_of_the_machine(line: &str) -> bool {
    let coming_and_going = line.starts_with("process ") || line.starts_with("cgroup ");
    // The registry is e2e's own: the soak stops it and starts another, and who started it ends it.
    let registry = line.contains(" docker-registry ");
    coming_and_going && (registry || !["cellblock", "runc", "crictl", "critest"].iter().any(|own| line.contains(own)))
}

/// Every process but the kernel's threads and our own; one that sees a mount of the run is said to be of it.
fn processes(lines: &mut BTreeSet<String>, dir: &Path) {
    let own = std::process::id().to_string();
    for pid in names(Path::new("/proc")).filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own) {
        let of = PathBuf::from("/proc").join(&pid);
        let Ok(command) = fs::read(of.join("cmdline")) else { continue };
        if command.is_empty() {
            continue;
        }
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let mounts = fs::read_to_string(of.join("mountinfo")).unwrap_or_default();
        let inside = mounts.lines().any(|line| line.contains(" / / ") && line.contains(&*dir.to_string_lossy()));
        let place = if inside { format!(" (root below {})", dir.display()) } else { String::new() };
        lines.insert(format!("process {pid} {command}{place}"));
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Every directory below this one, however deep.
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
