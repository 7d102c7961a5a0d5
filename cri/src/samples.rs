//! CPU use as a rate: the kernel counts CPU time, CRI wants nanocores too, so the last reading of each container is kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use host::ContainerId;

/// Two readings closer than this say nothing: the last rate is given again, in nanoseconds.
const SHORTEST: i64 = 500_000_000;
const SECOND: u128 = 1_000_000_000;

/// The last readings.
#[derive(Debug, Default)]
pub struct Samples {
    last: Mutex<HashMap<ContainerId, Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: i64,
    cpu: u64,
    rate: u64,
}

impl Samples {
    /// Takes a reading of `cpu` nanoseconds at the time `at`, both in nanoseconds, and gives the CPU use since the last one,
    /// in nanocores; the first time since the start of the container.
    pub fn rate(&self, id: &ContainerId, at: i64, cpu: u64, started_at: i64) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.get(id).copied().unwrap_or(Sample { at: started_at, cpu: 0, rate: 0 });
        if at - before.at < SHORTEST {
            return before.rate;
        }
        // A container that was started again, or a clock that was set, counts from nothing.
        let used = u128::from(cpu.saturating_sub(before.cpu));
        let rate = used * SECOND / u128::try_from(at - before.at).unwrap_or(SECOND);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        last.insert(id.clone(), Sample { at, cpu, rate });
        rate
    }

    /// The container is gone.
    pub fn forget(&self, id: &ContainerId) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use host::ContainerId;

    use super::Samples;

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
