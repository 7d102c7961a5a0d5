//! kubelet's own record of how long its lists of pods took, a histogram.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};

const HISTOGRAM: &str = "kubelet_pleg_relist_duration_seconds_bucket{le=\"";
/// What a relist may take, in seconds: one of the histogram's limits.
const GOAL: f64 = 0.1;

/// How many took at most so long, by the limit as Kubernetes writes it, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Relists(Vec<(f64, u64)>);

impl Relists {
    /// Reads the text of `/metrics`.
    pub(super) fn read(metrics: &str) -> Result<Self> {
        let mut limits = Vec::new();
        for line in metrics.lines().filter_map(|line| line.strip_prefix(HISTOGRAM)) {
            let (limit, count) = line.split_once("\"} ").with_context(|| format!("no bucket: {line}"))?;
            limits.push((if limit == "+Inf" { f64::INFINITY } else { limit.parse()? }, count.trim().parse()?));
        }
        limits.last().context("kubelet tells nothing of its relists")?;
        Ok(Self(limits))
    }

    /// Those since then.
    pub(super) fn since(&self, then: &Self) -> Self {
        let before: BTreeMap<u64, u64> = then.0.iter().map(|(limit, count)| (limit.to_bits(), *count)).collect();
        let since = |(limit, count): &(f64, u64)| (*limit, count - before.get(&limit.to_bits()).unwrap_or(&0));
        Self(self.0.iter().map(since).collect())
    }

    fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// The number of those that took longer than the goal.
    fn slow(&self) -> u64 {
        let within = self.0.iter().rev().find(|(limit, _)| *limit <= GOAL);
        self.count() - within.map_or(0, |(_, count)| *count)
    }

    /// The lowest limit that none exceeded.
    fn slowest(&self) -> f64 {
        self.0.iter().find(|(_, count)| *count == self.count()).map_or(0.0, |(limit, _)| *limit)
    }
}

impl fmt::Display for Relists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} relists, {} over {GOAL} s, the slowest below {} s", self.count(), self.slow(), self.slowest())
    }
}

#[test]
fn relists_are_counted_by_their_limits() {
    let metrics = |counts: [u64; 4]| {
        let bucket = |(limit, count)| format!("{HISTOGRAM}{limit}\"}} {count}\n");
        let buckets: String = ["0.05", "0.1", "0.25", "+Inf"].into_iter().zip(counts).map(bucket).collect();
        format!("# HELP x\n{buckets}kubelet_pleg_relist_duration_seconds_sum 1\n")
    };
    let then = Relists::read(&metrics([1, 1, 2, 3])).expect("they are buckets");
    let now = Relists::read(&metrics([5, 8, 10, 11])).expect("they are buckets");
    assert_eq!(now.since(&then).to_string(), "8 relists, 1 over 0.1 s, the slowest below 0.25 s");
    assert_eq!(then.to_string(), "3 relists, 2 over 0.1 s, the slowest below inf s");
    assert!(Relists::read("nothing").is_err());
}
