//! Limits as rules of rctl(8) and CPU sets (cpuset(2)), and rctl's answers. The rules are on each container's jail: rules on
//! the pod's jail count its children but do not limit them. Memory has no rule: rctl kills one process only, so the monitor
//! reads the sum and kills the whole container ([`super::launch`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::Error;
use crate::spec::Resources;

/// The default period of a CPU quota, in microseconds, as on Linux.
const CPU_PERIOD: u64 = 100_000;
/// The number of CPUs in a cpuset_t (CPU_MAXSIZE).
const CPU_LIMIT: usize = 1024;
/// The number of domains in a domainset_t of a program (DOMAINSET_MAXSIZE in sys/_domainset.h).
const DOMAIN_LIMIT: usize = 256;
/// The file of a cgroup by which an overrun kills all of it. kubelet asks for it where it takes the node for one with cgroups v2.
const OOM_GROUP: &str = "memory.oom.group";

/// The resources that can be limited by name, and what the kernel does at the limit (rctl(8)): it slows the file systems' rates
/// down, and refuses another open file or thread.
const RCTL: [(&str, &str); 6] = [
    ("readbps", "throttle"),
    ("writebps", "throttle"),
    ("readiops", "throttle"),
    ("writeiops", "throttle"),
    ("openfiles", "deny"),
    ("nthr", "deny"),
];

/// The enforced limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Per cent of one CPU.
    pub(super) cpu_percent: Option<u64>,
    /// Bytes.
    pub(super) memory: Option<u64>,
    pub(super) processes: Option<u64>,
    /// The CPUs it may run on.
    pub(super) cpus: Option<BTreeSet<usize>>,
    /// The memory domains that it takes memory from. An earlier server wrote none.
    #[serde(default)]
    pub(super) domains: Option<BTreeSet<usize>>,
    /// Amounts of other resources of [`RCTL`]. An earlier server wrote none.
    #[serde(default)]
    pub(super) rctl: BTreeMap<String, u64>,
}

/// What a container may have at most of what the kernel has once for the whole node, so that none can take it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) processes: u64,
    pub(super) threads: u64,
    /// The sizes of its processes' tables of open files.
    pub(super) files: u64,
}

impl Limits {
    /// The limits of the spec. CPU shares, the OOM score adjustment and swap have no counterpart here and are listed in
    /// docs/coverage.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Unsupported`] name the field.
    pub(super) fn of(resources: &Resources) -> Result<Self, Error> {
        let unsupported = |what: &str| Err(Error::Unsupported { what: what.to_owned(), backend: NAME });
        if resources.hugepages.values().any(|bytes| *bytes > 0) {
            return unsupported("resources.hugepages");
        }
        // The whole container is killed in any case.
        let other = resources.unified.iter().find(|(name, value)| (name.as_str(), value.as_str()) != (OOM_GROUP, "1"));
        if let Some((name, value)) = other {
            return unsupported(&format!("resources.unified: {name}={value}"));
        }
        if let Some(name) = resources.rctl.keys().find(|name| RCTL.iter().all(|(known, _)| known != name)) {
            return unsupported(&format!("resources.rctl: {name}"));
        }
        let list = |field: &str, text: &str, limit: usize| {
            if text.is_empty() { Ok(None) } else { numbers(field, text, limit).map(Some) }
        };
        Ok(Self {
            cpu_percent: cpu_percent(resources)?,
            memory: resources.memory.filter(|bytes| *bytes > 0),
            processes: resources.pids.filter(|count| (1..u64::MAX).contains(count)),
            cpus: list("resources.cpuset_cpus", &resources.cpuset_cpus, CPU_LIMIT)?,
            domains: list("resources.cpuset_mems", &resources.cpuset_mems, DOMAIN_LIMIT)?,
            rctl: resources.rctl.clone(),
        })
    }

    /// Applies an update; None stays as before.
    pub(super) fn update(&mut self, resources: &Resources) -> Result<(), Error> {
        let new = Self::of(resources)?;
        if resources.cpu_quota.is_some() {
            self.cpu_percent = new.cpu_percent;
        }
        self.memory = new.memory.or(self.memory);
        if resources.pids.is_some() {
            self.processes = new.processes;
        }
        self.cpus = new.cpus.or(self.cpus.take());
        self.domains = new.domains.or(self.domains.take());
        self.rctl.extend(new.rctl);
        Ok(())
    }

    /// The container's limits, at most its pod's. kubelet gives a pod the sum of its containers' limits: it does not fall on a
    /// container without one.
    pub(super) fn within(&self, pod: &Self) -> Self {
        let lower = |own: Option<u64>, pod: Option<u64>| own.map(|own| pod.map_or(own, |pod| own.min(pod)));
        Self {
            cpu_percent: lower(self.cpu_percent, pod.cpu_percent),
            memory: lower(self.memory, pod.memory),
            processes: lower(self.processes, pod.processes),
            cpus: self.cpus.clone(),
            domains: self.domains.clone(),
            rctl: self.rctl.clone(),
        }
    }

    /// The limit on threads.
    pub(super) fn threads(&self, bounds: Bounds) -> u64 {
        bounded(self.rctl.get("nthr").copied(), bounds.threads)
    }

    /// The rules for a jail, for rctl_add_rule(2). `deny` on pcpu slows processes down; on the others it refuses another one.
    pub(super) fn rules(&self, jail: &str, bounds: Bounds) -> Vec<String> {
        let rule = |resource: &str, action: &str, amount: u64| format!("jail:{jail}:{resource}:{action}={amount}");
        let cpu = self.cpu_percent.map(|percent| rule("pcpu", "deny", percent));
        let processes = rule("maxproc", "deny", bounded(self.processes, bounds.processes));
        let others = RCTL.iter().filter_map(|(resource, action)| {
            let own = self.rctl.get(*resource).copied();
            let amount = match *resource {
                "nthr" => Some(self.threads(bounds)),
                "openfiles" => Some(bounded(own, bounds.files)),
                _ => own,
            };
            amount.map(|amount| rule(resource, action, amount))
        });
        cpu.into_iter().chain([processes]).chain(others).collect()
    }
}

/// The container's own limit, at most the bound.
fn bounded(own: Option<u64>, bound: u64) -> u64 {
    own.map_or(bound, |count| count.min(bound))
}

/// The limit of a pod on the sum over its containers, given their own limits: it holds only if every container has one, since
/// the sum does not have the usage of others.
pub(super) fn on_sum(pod: Option<u64>, own: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    pod.filter(|_| own.into_iter().all(|own| own.is_some()))
}

fn cpu_percent(resources: &Resources) -> Result<Option<u64>, Error> {
    let period = resources.cpu_period.filter(|period| *period > 0).unwrap_or(CPU_PERIOD);
    match resources.cpu_quota {
        None | Some(-1 | 0) => Ok(None),
        Some(quota) => {
            let quota = u64::try_from(quota)
                .map_err(|_| Error::invalid("resources.cpu_quota", format!("{quota} is negative")))?;
            Ok(Some((quota.saturating_mul(100) / period).max(1)))
        }
    }
}

/// Parses `0-3,6`, with numbers below a limit.
fn numbers(field: &str, text: &str, limit: usize) -> Result<BTreeSet<usize>, Error> {
    let invalid = || Error::invalid(field, format!("{text:?} is not a list of numbers below {limit}"));
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let first: usize = first.parse().map_err(|_| invalid())?;
        let last: usize = last.parse().map_err(|_| invalid())?;
        if first > last || last >= limit {
            return Err(invalid());
        }
        found.extend(first..=last);
    }
    Ok(found)
}

/// One value of rctl_get_racct(2)'s answer `cputime=3,memoryuse=4096`.
pub(super) fn racct_value(answer: &str, resource: &str) -> Option<u64> {
    let pairs = answer.trim_end_matches('\0').split(',').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim() == resource)?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Bounds, Limits, numbers, on_sum, racct_value};
    use crate::Error;
    use crate::spec::Resources;

    #[test]
    fn resources_become_rules() {
        let resources = Resources {
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(10),
            cpu_shares: Some(2),
            ..Resources::default()
        };
        let limits = Limits::of(&resources).unwrap();
        assert_eq!(limits.memory, Some(1 << 20));
        let bounds = Bounds { processes: 5000, threads: 6000, files: 7000 };
        let rules = |limits: &Limits| limits.rules("cb1.c2", bounds).join(" ").replace("jail:cb1.c2:", "");
        assert_eq!(rules(&limits), "pcpu:deny=50 maxproc:deny=10 openfiles:deny=7000 nthr:deny=6000");
        assert_eq!(rules(&Limits::default()), "maxproc:deny=5000 openfiles:deny=7000 nthr:deny=6000");
        let rctl = [("readbps", 1 << 20), ("writeiops", 9), ("openfiles", 64), ("nthr", 9999)];
        let rctl = rctl.map(|(name, amount)| (name.to_owned(), amount)).into();
        let mut named = Limits::of(&Resources { rctl, ..Resources::default() }).unwrap();
        named.update(&resources).unwrap();
        assert_eq!(
            rules(&named.within(&limits)),
            "pcpu:deny=50 maxproc:deny=10 readbps:throttle=1048576 writeiops:throttle=9 openfiles:deny=64 nthr:deny=6000"
        );
        assert_eq!(Limits::of(&Resources::default()).unwrap(), Limits::default());
    }

    #[test]
    fn quotas_become_per_cent() {
        let cases = [
            (Some(-1), None, None),
            (Some(0), None, None),
            (Some(20_000), None, Some(20)),
            (Some(300_000), Some(100_000), Some(300)),
            (Some(1), Some(1_000_000), Some(1)),
        ];
        for (cpu_quota, cpu_period, percent) in cases {
            let resources = Resources { cpu_quota, cpu_period, ..Resources::default() };
            assert_eq!(Limits::of(&resources).unwrap().cpu_percent, percent, "{cpu_quota:?}/{cpu_period:?}");
        }
        let negative = Resources { cpu_quota: Some(-7), ..Resources::default() };
        assert!(matches!(Limits::of(&negative), Err(Error::Invalid { .. })));
    }

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(numbers("f", "0-2,5", 6).unwrap().into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        for text in ["a", "3-1", "1-", "0-6", ","] {
            let error = numbers("f", text, 6).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_refused() {
        let file = |name: &str, value: &str| Resources {
            unified: [(name.to_owned(), value.to_owned())].into(),
            ..Resources::default()
        };
        let pages = Resources { hugepages: [("2MB".to_owned(), 2 << 20)].into(), ..Resources::default() };
        let rctl = Resources { rctl: [("wallclock".to_owned(), 1)].into(), ..Resources::default() };
        for resources in [file("memory.high", "1"), file("memory.oom.group", "0"), pages, rctl] {
            assert!(matches!(Limits::of(&resources), Err(Error::Unsupported { .. })), "{resources:?}");
        }
        let none = Resources { hugepages: [("2MB".to_owned(), 0)].into(), ..Resources::default() };
        for nothing in [none, file("memory.oom.group", "1")] {
            assert_eq!(Limits::of(&nothing).unwrap(), Limits::default());
        }
        let domains = Resources { cpuset_mems: "0-1".to_owned(), ..Resources::default() };
        assert_eq!(Limits::of(&domains).unwrap().domains, Some([0, 1].into()));
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name_and_a_pod_bounds() {
        let mut limits = Limits { cpu_percent: Some(50), memory: Some(100), processes: Some(5), ..Limits::default() };
        limits.update(&Resources { memory: Some(200), ..Resources::default() }).unwrap();
        assert_eq!((limits.cpu_percent, limits.memory, limits.processes), (Some(50), Some(200), Some(5)));
        limits.update(&Resources { cpu_quota: Some(-1), ..Resources::default() }).unwrap();
        assert_eq!(limits.cpu_percent, None);
        let pod = Limits { cpu_percent: Some(20), memory: Some(150), ..Limits::default() };
        let both = limits.within(&pod);
        assert_eq!((both.cpu_percent, both.memory, both.processes), (None, Some(150), Some(5)));
        limits.update(&Resources { pids: Some(u64::MAX), ..Resources::default() }).unwrap();
        assert_eq!(limits.processes, None);
    }

    #[test]
    fn a_pods_limit_falls_on_no_container_that_has_none() {
        let limits = |limit| Limits { cpu_percent: limit, memory: limit, processes: limit, ..Limits::default() };
        for (own, pod, wanted) in [
            (None, None, None),
            (None, Some(32), None),
            (Some(64), None, Some(64)),
            (Some(64), Some(32), Some(32)),
            (Some(32), Some(64), Some(32)),
        ] {
            assert_eq!(limits(own).within(&limits(pod)), limits(wanted), "{own:?} in {pod:?}");
        }
        let pod = Limits { cpus: Some([0].into()), ..Limits::default() };
        assert_eq!(Limits::default().within(&pod), Limits::default());
        for (pod, own, wanted) in [
            (None, vec![Some(1)], None),
            (Some(9), vec![Some(4), Some(5)], Some(9)),
            (Some(4), vec![Some(4), None], None),
            (Some(4), vec![None], None),
        ] {
            assert_eq!(on_sum(pod, own.clone()), wanted, "{pod:?} over {own:?}");
        }
    }

    #[test]
    fn an_answer_of_racct_is_read() {
        // As recorded on FreeBSD 15: rctl -u jail:NAME.
        let answer = "cputime=1,datasize=4096,stacksize=0,coredumpsize=0,memoryuse=2457600,memorylocked=0,maxproc=2,\
                      openfiles=0,vmemoryuse=13086720,pseudoterminals=0,swapuse=0,nthr=2,msgqqueued=0,pcpu=0\0";
        assert_eq!(racct_value(answer, "memoryuse"), Some(2_457_600));
        assert_eq!(racct_value(answer, "maxproc"), Some(2));
        assert_eq!(racct_value(answer, "memory"), None);
    }
}
