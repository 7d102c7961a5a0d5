//! The details of a container's usage, from its cgroup (cgroup-v1(7), cgroup-v2(7)) and /proc.

use std::collections::BTreeMap;
use std::path::Path;

use super::cgroup::{self, Hierarchies};
use super::usage::{keyed, memory_kills};
use crate::{Details, DeviceUsage};

/// Reads the details. The kernel does not count what has no file.
pub(super) fn read(hierarchies: &Hierarchies, cgroup: &Path) -> Details {
    let details = match hierarchies {
        Hierarchies::V1(_) => version_1(hierarchies, cgroup),
        Hierarchies::V2(_) => version_2(hierarchies, cgroup),
    };
    let file = |controller: &str, name: &str| text(hierarchies, cgroup, controller, name);
    let tracking = hierarchies.directory(hierarchies.tracking(), cgroup);
    let processes = tracking.and_then(|directory| cgroup::processes(&directory).ok()).unwrap_or_default();
    let (descriptors, sockets) = descriptors(&processes);
    Details {
        memory_kills: Some(memory_kills(hierarchies, cgroup)),
        threads: file("pids", "pids.current").and_then(|text| number(&text)),
        // `max`: none.
        threads_limit: file("pids", "pids.max").map(|text| number(&text).unwrap_or(0)),
        descriptors: Some(descriptors),
        sockets: Some(sockets),
        ..details
    }
}

fn version_1(hierarchies: &Hierarchies, cgroup: &Path) -> Details {
    let file = |controller: &str, name: &str| text(hierarchies, cgroup, controller, name);
    let counter = |controller: &str, name: &str| file(controller, name).and_then(|text| number(&text));
    let (cpu, memory) =
        (file("cpu", "cpu.stat").unwrap_or_default(), file("memory", "memory.stat").unwrap_or_default());
    let blocks = |name: &str| file("blkio", name).unwrap_or_default();
    let (bytes, times) = (blocks("blkio.throttle.io_service_bytes"), blocks("blkio.throttle.io_serviced"));
    Details {
        user_nanoseconds: counter("cpuacct", "cpuacct.usage_user"),
        system_nanoseconds: counter("cpuacct", "cpuacct.usage_sys"),
        periods: keyed(&cpu, "nr_periods"),
        throttled_periods: keyed(&cpu, "nr_throttled"),
        throttled_nanoseconds: keyed(&cpu, "throttled_time"),
        cache_bytes: keyed(&memory, "total_cache"),
        mapped_file_bytes: keyed(&memory, "total_mapped_file"),
        active_file_bytes: keyed(&memory, "total_active_file"),
        inactive_file_bytes: keyed(&memory, "total_inactive_file"),
        kernel_bytes: counter("memory", "memory.kmem.usage_in_bytes"),
        peak_bytes: counter("memory", "memory.max_usage_in_bytes"),
        limit_hits: counter("memory", "memory.failcnt"),
        devices: named(devices_1(&bytes, &times)),
        ..Details::default()
    }
}

fn version_2(hierarchies: &Hierarchies, cgroup: &Path) -> Details {
    let file = |name: &str| text(hierarchies, cgroup, "", name);
    let (cpu, memory) = (file("cpu.stat").unwrap_or_default(), file("memory.stat").unwrap_or_default());
    let nanoseconds = |key: &str| keyed(&cpu, key).map(|microseconds| microseconds * 1000);
    Details {
        user_nanoseconds: nanoseconds("user_usec"),
        system_nanoseconds: nanoseconds("system_usec"),
        periods: keyed(&cpu, "nr_periods"),
        throttled_periods: keyed(&cpu, "nr_throttled"),
        throttled_nanoseconds: nanoseconds("throttled_usec"),
        cache_bytes: keyed(&memory, "file"),
        mapped_file_bytes: keyed(&memory, "file_mapped"),
        active_file_bytes: keyed(&memory, "active_file"),
        inactive_file_bytes: keyed(&memory, "inactive_file"),
        kernel_bytes: keyed(&memory, "kernel").or_else(|| keyed(&memory, "kernel_stack")),
        // Since Linux 5.19.
        peak_bytes: file("memory.peak").and_then(|text| number(&text)),
        limit_hits: file("memory.events").and_then(|text| keyed(&text, "max")),
        devices: named(devices_2(&file("io.stat").unwrap_or_default())),
        ..Details::default()
    }
}

fn text(hierarchies: &Hierarchies, cgroup: &Path, controller: &str, name: &str) -> Option<String> {
    std::fs::read_to_string(hierarchies.directory(controller, cgroup)?.join(name)).ok()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The open descriptors of processes, and the sockets among them. A process that ended meanwhile has none.
fn descriptors(processes: &[i32]) -> (u64, u64) {
    let (mut all, mut sockets) = (0, 0);
    for process in processes {
        let entries = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        for target in entries.map(|entry| std::fs::read_link(entry.path())) {
            all += 1;
            sockets +=
                u64::from(target.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")));
        }
    }
    (all, sockets)
}

/// A device's numbers (`8:0`).
type Numbers = (u32, u32);

fn numbers(text: &str) -> Option<Numbers> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines of `8:0 Read 4096`, in bytes and in times.
fn devices_1(bytes: &str, times: &str) -> BTreeMap<Numbers, DeviceUsage> {
    let mut found: BTreeMap<Numbers, DeviceUsage> = BTreeMap::new();
    for (text, in_bytes) in [(bytes, true), (times, false)] {
        for line in text.lines() {
            let [device, operation, value] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let (Some(device), Ok(value)) = (numbers(device), value.parse()) else { continue };
            let usage = found.entry(device).or_default();
            match (operation, in_bytes) {
                ("Read", true) => usage.read_bytes = value,
                ("Write", true) => usage.written_bytes = value,
                ("Read", false) => usage.reads = value,
                ("Write", false) => usage.writes = value,
                _ => {}
            }
        }
    }
    found
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn devices_2(text: &str) -> BTreeMap<Numbers, DeviceUsage> {
    let one = |line: &str| {
        let mut words = line.split(' ');
        let device = numbers(words.next()?)?;
        let mut usage = DeviceUsage::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => usage.read_bytes = value,
                "wbytes" => usage.written_bytes = value,
                "rios" => usage.reads = value,
                "wios" => usage.writes = value,
                _ => {}
            }
        }
        Some((device, usage))
    };
    text.lines().filter_map(one).collect()
}

/// Gives devices the names of their nodes (sysfs(5)).
fn named(found: BTreeMap<Numbers, DeviceUsage>) -> Vec<DeviceUsage> {
    let one = |((major, minor), usage): (Numbers, DeviceUsage)| {
        let uevent = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
        let node = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        let name = node.map_or_else(|| format!("{major}:{minor}"), |node| format!("/dev/{node}"));
        DeviceUsage { name, major, minor, ..usage }
    };
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::{devices_1, devices_2};
    use crate::DeviceUsage;

    #[test]
    fn devices_are_read_from_both_versions() {
        let wanted =
            DeviceUsage { read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2, ..DeviceUsage::default() };
        let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 0\n8:0 Total 12288\nTotal 12288\n";
        let first = devices_1(bytes, "8:0 Read 1\n8:0 Write 2\nTotal 3\n");
        assert_eq!(first.into_iter().collect::<Vec<_>>(), [((8, 0), wanted.clone())]);
        let second = devices_2("8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:1 \nnonsense\n");
        assert_eq!(second.into_iter().collect::<Vec<_>>(), [((8, 0), wanted), ((253, 1), DeviceUsage::default())]);
    }
}
