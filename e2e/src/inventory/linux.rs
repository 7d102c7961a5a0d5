//! The inventory of a Linux machine: processes, mounts, interfaces, network namespaces, nftables rules and cgroups.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::directories;
use crate::process::Program;

/// One line for each object. `dir` is the directory of the run.
pub(super) fn lines(dir: &Path) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    processes(&mut lines, dir);
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        lines.insert(format!("mount {} {}", fields.get(4).unwrap_or(&""), fields.last().unwrap_or(&"")));
    }
    for (kind, dir) in [("interface", "/sys/class/net"), ("network namespace", "/run/netns")] {
        lines.extend(names(Path::new(dir)).map(|name| format!("{kind} {name}")));
    }
    for rule in Program::new("nft", ["list", "ruleset"]).run()?.lines().filter(|line| !line.contains("counter packets"))
    {
        lines.insert(format!("nftables {}", rule.trim()));
    }
    directories(Path::new("/sys/fs/cgroup"), &mut |path| {
        lines.insert(format!("cgroup {}", path.display()));
    });
    Ok(lines)
}

/// All processes but kernel threads and our own; one with a mount of the run is marked.
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
