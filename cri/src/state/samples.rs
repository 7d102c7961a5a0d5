//! The last readings of containers: of CPU time, since CRI wants a rate in nanocores too, and of disk usage, since reading that may
//! walk a tree: a slow reading is reused for a while.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use host::ContainerId;
use image::FsUsage;

/// The shortest time between two readings that give a rate, in nanoseconds; before it the last rate is returned again.
const SHORTEST: i64 = 500_000_000;
const SECOND: u128 = 1_000_000_000;
/// A reading of the written bytes is reused for this many times its duration, so that each container's readings take at most
/// one hundredth of a CPU.
const WRITTEN_KEPT: u32 = 100;

#[derive(Debug, Default)]
pub(crate) struct Samples {
    last: Mutex<HashMap<ContainerId, Sample>>,
    written: Mutex<HashMap<ContainerId, Written>>,
}

/// The disk usage of a container at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// In nanoseconds since 1970.
    pub(crate) at: i64,
    pub(crate) usage: FsUsage,
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: i64,
    cpu: u64,
    rate: u64,
}

impl Samples {
    /// Returns the CPU usage since the last reading, or since the start, in nanocores. `cpu` is the CPU time at `at`; both are in
    /// nanoseconds.
    pub(crate) fn rate(&self, id: &ContainerId, at: i64, cpu: u64, started_at: i64) -> u64 {
        let mut last = lock(&self.last);
        let before = last.get(id).copied().unwrap_or(Sample { at: started_at, cpu: 0, rate: 0 });
        if at - before.at < SHORTEST {
            return before.rate;
        }
        // After a restart of the container or a change of the clock it counts from 0.
        let used = u128::from(cpu.saturating_sub(before.cpu));
        let rate = used * SECOND / u128::try_from(at - before.at).unwrap_or(SECOND);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        last.insert(id.clone(), Sample { at, cpu, rate });
        rate
    }

    /// Returns the disk usage of a container: a recent reading, or a new one by `read`. Blocking.
    pub(crate) fn written(&self, id: &ContainerId, at: i64, read: impl FnOnce() -> Option<FsUsage>) -> Option<Written> {
        let begun = Instant::now();
        let kept = lock(&self.written).get(id).copied().filter(|kept| kept.until > begun);
        if kept.is_some() {
            return kept;
        }
        let usage = read()?;
        let took = begun.elapsed();
        let until = Instant::now() + took.saturating_mul(WRITTEN_KEPT).min(Duration::from_secs(3600));
        let written = Written { at, usage, until };
        lock(&self.written).insert(id.clone(), written);
        Some(written)
    }

    /// Forgets a container. Idempotent.
    pub(crate) fn forget(&self, id: &ContainerId) {
        lock(&self.last).remove(id);
        lock(&self.written).remove(id);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use host::ContainerId;
    use image::FsUsage;

    use super::Samples;

    #[test]
    fn a_reading_that_took_long_is_given_again() {
        let (samples, id) = (Samples::default(), ContainerId::random());
        let slow = || {
            std::thread::sleep(Duration::from_millis(50));
            Some(FsUsage { bytes: 1, inodes: 1 })
        };
        assert_eq!(samples.written(&id, 1, slow).unwrap().at, 1);
        assert_eq!(samples.written(&id, 2, || panic!("it is read again")).unwrap().at, 1);
        samples.forget(&id);
        assert!(samples.written(&id, 3, || None).is_none());
    }

    #[test]
    fn a_rate_is_what_was_used_since_the_last_reading() {
        let (samples, id, second) = (Samples::default(), ContainerId::random(), 1_000_000_000);
        assert_eq!(samples.rate(&id, 12 * second, 1_000_000_000, 10 * second), 500_000_000);
        assert_eq!(samples.rate(&id, 13 * second, 3_000_000_000, 10 * second), 2_000_000_000);
        assert_eq!(samples.rate(&id, 13 * second + 1, 3_000_000_001, 10 * second), 2_000_000_000);
        samples.forget(&id);
        assert_eq!(samples.rate(&id, 14 * second, 0, 13 * second), 0);
    }
}
