//! The usage of a container, read from its cgroup and computed as in the kubelet: the working set is the memory in use without
//! the file pages that can be dropped first.

use std::path::Path;

use super::cgroup::Hierarchies;
use crate::{Error, Usage};

/// No limit in version 1: the largest number of whole pages.
const NO_LIMIT: u64 = i64::MAX as u64 & !0xfff;

/// Reads the usage. The kernel does not count what has no file.
pub(super) fn read(hierarchies: &Hierarchies, cgroup: &Path) -> Result<Usage, Error> {
    match hierarchies {
        Hierarchies::V1(_) => Ok(version_1(hierarchies, cgroup)),
        Hierarchies::V2(_) => Ok(version_2(hierarchies, cgroup)),
    }
}

fn version_1(hierarchies: &Hierarchies, cgroup: &Path) -> Usage {
    let file = |controller: &str, name: &str| {
        std::fs::read_to_string(hierarchies.directory(controller, cgroup)?.join(name)).ok()
    };
    let number = |controller: &str, name: &str| file(controller, name)?.trim().parse::<u64>().ok();
    let stat = file("memory", "memory.stat").unwrap_or_default();
    let memory = number("memory", "memory.usage_in_bytes");
    Usage {
        cpu_nanoseconds: number("cpuacct", "cpuacct.usage"),
        memory_bytes: memory,
        working_set_bytes: memory.map(|used| used.saturating_sub(keyed(&stat, "total_inactive_file").unwrap_or(0))),
        rss_bytes: keyed(&stat, "total_rss"),
        memory_limit_bytes: number("memory", "memory.limit_in_bytes").filter(|&limit| limit < NO_LIMIT),
        page_faults: keyed(&stat, "total_pgfault"),
        major_page_faults: keyed(&stat, "total_pgmajfault"),
        swap_bytes: keyed(&stat, "total_swap"),
        processes: number("pids", "pids.current"),
    }
}

fn version_2(hierarchies: &Hierarchies, cgroup: &Path) -> Usage {
    let file = |name: &str| std::fs::read_to_string(hierarchies.directory("", cgroup)?.join(name)).ok();
    let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
    let stat = file("memory.stat").unwrap_or_default();
    let memory = number("memory.current");
    Usage {
        cpu_nanoseconds: file("cpu.stat").and_then(|stat| keyed(&stat, "usage_usec")).map(|us| us * 1000),
        memory_bytes: memory,
        working_set_bytes: memory.map(|used| used.saturating_sub(keyed(&stat, "inactive_file").unwrap_or(0))),
        rss_bytes: keyed(&stat, "anon"),
        memory_limit_bytes: number("memory.max"),
        page_faults: keyed(&stat, "pgfault"),
        major_page_faults: keyed(&stat, "pgmajfault"),
        swap_bytes: number("memory.swap.current"),
        processes: number("pids.current"),
    }
}

/// The number of out-of-memory kills in the cgroup (version 1 counts since Linux 4.13).
pub(super) fn memory_kills(hierarchies: &Hierarchies, cgroup: &Path) -> u64 {
    let name = if matches!(hierarchies, Hierarchies::V1(_)) { "memory.oom_control" } else { "memory.events" };
    let text = hierarchies.directory("memory", cgroup).and_then(|path| std::fs::read_to_string(path.join(name)).ok());
    text.and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0)
}

/// The number after a key; one key per line.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::keyed;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
    }
}
