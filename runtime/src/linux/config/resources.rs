//! The limits of a container, as the runtime specification's `linux.resources`.

use serde_json::{Map, Value, json};

use crate::spec::Resources;

/// The limits that the node's kernel can account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    /// Swap is accounted (memory.memsw.* on cgroups v1).
    pub(crate) swap: bool,
    /// The hugetlb controller is mounted.
    pub(crate) hugepages: bool,
}

/// The limits, without devices. Limits on swap and huge pages that the kernel cannot account are left out and logged: kubelet
/// always sends them, and containerd leaves them out as well.
pub(crate) fn limits(resources: &Resources, offered: Offered) -> Value {
    let mut all = Map::new();
    let mut memory = Map::new();
    if let Some(limit) = resources.memory.filter(|&limit| limit > 0) {
        memory.insert("limit".to_owned(), json!(limit));
    }
    if let Some(swap) = resources.memory_swap.filter(|&swap| swap != 0) {
        if offered.swap {
            memory.insert("swap".to_owned(), json!(swap));
        } else {
            tracing::debug!(swap, "the kernel does not account swap: its limit is left out");
        }
    }
    insert(&mut all, "memory", memory);
    insert(&mut all, "cpu", cpu(resources));
    if let Some(pids) = resources.pids.filter(|&pids| pids > 0) {
        // -1: `max`.
        all.insert("pids".to_owned(), json!({ "limit": i64::try_from(pids).unwrap_or(-1) }));
    }
    if !resources.hugepages.is_empty() && offered.hugepages {
        let limit = |(size, limit): (&String, &u64)| json!({ "pageSize": size, "limit": limit });
        all.insert("hugepageLimits".to_owned(), resources.hugepages.iter().map(limit).collect());
    } else if !resources.hugepages.is_empty() {
        tracing::debug!("the hugetlb controller is not mounted: its limits are left out");
    }
    if !resources.unified.is_empty() {
        all.insert("unified".to_owned(), json!(resources.unified));
    }
    Value::Object(all)
}

fn cpu(resources: &Resources) -> Map<String, Value> {
    let mut cpu = Map::new();
    if let Some(shares) = resources.cpu_shares.filter(|&shares| shares > 0) {
        cpu.insert("shares".to_owned(), json!(shares));
    }
    if let Some(quota) = resources.cpu_quota.filter(|&quota| quota != 0) {
        cpu.insert("quota".to_owned(), json!(quota));
    }
    if let Some(period) = resources.cpu_period.filter(|&period| period > 0) {
        cpu.insert("period".to_owned(), json!(period));
    }
    for (name, set) in [("cpus", &resources.cpuset_cpus), ("mems", &resources.cpuset_mems)] {
        if !set.is_empty() {
            cpu.insert(name.to_owned(), json!(set));
        }
    }
    cpu
}

fn insert(all: &mut Map<String, Value>, name: &str, section: Map<String, Value>) {
    if !section.is_empty() {
        all.insert(name.to_owned(), Value::Object(section));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Offered, limits};
    use crate::spec::Resources;

    #[test]
    fn only_what_is_set_is_limited() {
        let offered = Offered { swap: true, hugepages: true };
        assert_eq!(limits(&Resources::default(), offered), json!({}));
        let resources = Resources {
            memory: Some(1 << 20),
            memory_swap: Some(2 << 20),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpuset_cpus: "0-1".to_owned(),
            pids: Some(10),
            hugepages: [("2MB".to_owned(), 0)].into(),
            ..Resources::default()
        };
        let expected = json!({
            "memory": { "limit": 1 << 20, "swap": 2 << 20 },
            "cpu": { "quota": 50_000, "period": 100_000, "cpus": "0-1" },
            "pids": { "limit": 10 },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }],
        });
        assert_eq!(limits(&resources, offered), expected);
        let free = Resources { pids: Some(u64::MAX), ..Resources::default() };
        assert_eq!(limits(&free, offered), json!({ "pids": { "limit": -1 } }));
        let without = limits(&resources, Offered { swap: false, hugepages: false });
        assert_eq!(without["memory"], json!({ "limit": 1 << 20 }));
        assert!(without.get("hugepageLimits").is_none());
    }
}
