//! LinuxContainerResources into Resources. In CRI 0 and an empty string mean: not set; in an update: unchanged.

use std::collections::BTreeMap;

use proto::v1::LinuxContainerResources;
use runtime::spec::Resources;

use super::refusal::{Refusal, invalid, number};

/// The kernel's range of oom_score_adj (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;

/// The kernel's range of a CPU period, in microseconds; a quota has the same minimum (sched-bwc in the kernel's documentation).
const CPU_PERIOD: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;

/// The file of a cgroup with the limit on its processes (cgroups(7), version 2).
const PIDS_MAX: &str = "pids.max";

/// `prefix` is the field of the resources.
pub(super) fn resources(prefix: &str, wanted: Option<&LinuxContainerResources>) -> Result<Resources, Refusal> {
    let Some(wanted) = wanted else { return Ok(Resources::default()) };
    let field = |name: &str| format!("{prefix}.{name}");
    let set = |name: &str, value: i64| -> Result<Option<u64>, Refusal> {
        if value == 0 { Ok(None) } else { number(&field(name), value).map(Some) }
    };
    if !OOM_SCORE_ADJ.contains(&wanted.oom_score_adj) {
        return Err(invalid(field("oom_score_adj"), format!("{} is out of range", wanted.oom_score_adj)));
    }
    let (pids, unified) = unified(&field("unified"), &wanted.unified)?;
    Ok(Resources {
        cpu_quota: quota(&field("cpu_quota"), wanted.cpu_quota)?,
        cpu_period: period(&field("cpu_period"), wanted.cpu_period)?,
        cpu_shares: set("cpu_shares", wanted.cpu_shares)?,
        memory: set("memory_limit_in_bytes", wanted.memory_limit_in_bytes)?,
        memory_swap: Some(wanted.memory_swap_limit_in_bytes).filter(|bytes| *bytes != 0),
        oom_score_adj: Some(number(&field("oom_score_adj"), wanted.oom_score_adj)?),
        cpuset_cpus: cpu_list(&field("cpuset_cpus"), &wanted.cpuset_cpus)?,
        cpuset_mems: cpu_list(&field("cpuset_mems"), &wanted.cpuset_mems)?,
        pids,
        hugepages: hugepages(wanted),
        unified,
        rctl: BTreeMap::new(),
    })
}

/// The limit on processes among the files of a cgroup, which is how kubelet and containerd set one, and the other files.
fn unified(field: &str, wanted: &BTreeMap<String, String>) -> Result<(Option<u64>, BTreeMap<String, String>), Refusal> {
    let mut rest = wanted.clone();
    let Some(text) = rest.remove(PIDS_MAX) else { return Ok((None, rest)) };
    let pids = if text.trim() == "max" { Some(u64::MAX) } else { text.trim().parse().ok().filter(|count| *count > 0) };
    match pids {
        Some(pids) => Ok((Some(pids), rest)),
        None => Err(invalid(field, format!("{PIDS_MAX}: {text:?} is neither a number of processes nor max"))),
    }
}

fn hugepages(wanted: &LinuxContainerResources) -> BTreeMap<String, u64> {
    wanted.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit)).collect()
}

fn quota(field: &str, value: i64) -> Result<Option<i64>, Refusal> {
    if value != 0 && value != -1 && value < *CPU_PERIOD.start() {
        let least = CPU_PERIOD.start();
        return Err(invalid(field, format!("{value} is neither a time of at least {least} microseconds nor -1")));
    }
    Ok(Some(value).filter(|value| *value != 0))
}

fn period(field: &str, value: i64) -> Result<Option<u64>, Refusal> {
    if value != 0 && !CPU_PERIOD.contains(&value) {
        let (least, most) = CPU_PERIOD.into_inner();
        return Err(invalid(field, format!("{value} is not between {least} and {most} microseconds")));
    }
    Ok(u64::try_from(value).ok().filter(|value| *value != 0))
}

/// A list in the form of cpuset(7): numbers and ranges, separated by commas.
fn cpu_list(field: &str, text: &str) -> Result<String, Refusal> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u32>(), last.parse::<u32>()), (Ok(first), Ok(last)) if first <= last)
    };
    if text.is_empty() || text.trim().split(',').all(range) {
        return Ok(text.trim().to_owned());
    }
    Err(invalid(field, format!("{text:?} is not a list such as 0-3,6")))
}

#[cfg(test)]
mod tests {
    use proto::v1::LinuxContainerResources;

    use super::resources;

    #[test]
    fn what_is_zero_is_not_set() {
        let got = resources("linux.resources", Some(&LinuxContainerResources::default())).unwrap();
        assert_eq!((got.cpu_quota, got.cpu_period, got.memory, got.memory_swap), (None, None, None, None));
        assert_eq!(got.oom_score_adj, Some(0));
        assert_eq!(resources("linux.resources", None).unwrap().oom_score_adj, None);
    }

    #[test]
    fn what_is_set_is_kept() {
        let wanted = LinuxContainerResources {
            cpu_quota: -1,
            cpu_period: 100_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 30,
            cpuset_cpus: "0-1,3".to_owned(),
            oom_score_adj: -998,
            ..LinuxContainerResources::default()
        };
        let got = resources("linux.resources", Some(&wanted)).unwrap();
        assert_eq!((got.cpu_quota, got.cpu_period, got.cpu_shares), (Some(-1), Some(100_000), Some(512)));
        assert_eq!((got.memory, got.oom_score_adj), (Some(1 << 30), Some(-998)));
        assert_eq!(got.cpuset_cpus, "0-1,3");
    }

    #[test]
    fn the_number_of_processes_is_taken_from_the_files_of_a_cgroup() {
        let with = |text: &str| LinuxContainerResources {
            unified: [("pids.max", text), ("memory.oom.group", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..LinuxContainerResources::default()
        };
        for (text, pids) in [("100", 100), ("100\n", 100), ("max", u64::MAX)] {
            let got = resources("linux.resources", Some(&with(text))).unwrap();
            assert_eq!(got.pids, Some(pids), "{text}");
            assert_eq!(Vec::from_iter(got.unified.keys()), ["memory.oom.group"]);
        }
        for text in ["many", "0", "-1", ""] {
            let refusal = resources("linux.resources", Some(&with(text))).unwrap_err().to_string();
            assert!(refusal.contains(&format!("linux.resources.unified: pids.max: {text:?}")), "{refusal}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let base = LinuxContainerResources::default;
        for (wanted, field) in [
            (LinuxContainerResources { memory_limit_in_bytes: -5, ..base() }, "memory_limit_in_bytes: -5"),
            (LinuxContainerResources { cpu_quota: -2, ..base() }, "cpu_quota: -2"),
            (LinuxContainerResources { cpu_quota: 999, ..base() }, "cpu_quota: 999"),
            (LinuxContainerResources { cpu_period: 999, ..base() }, "cpu_period: 999"),
            (LinuxContainerResources { cpu_period: 1_000_001, ..base() }, "cpu_period: 1000001"),
            (LinuxContainerResources { oom_score_adj: 1001, ..base() }, "oom_score_adj: 1001"),
            (LinuxContainerResources { cpuset_cpus: "3-1".to_owned(), ..base() }, "cpuset_cpus: \"3-1\""),
            (LinuxContainerResources { cpuset_mems: "all".to_owned(), ..base() }, "cpuset_mems: \"all\""),
        ] {
            let refusal = resources("linux.resources", Some(&wanted)).unwrap_err().to_string();
            assert!(refusal.contains(&format!("linux.resources.{field}")), "{refusal}");
        }
    }
}
