//! The last readings of containers: of CPU time, since CRI wants a rate in nanocores too, and of disk usage, since reading that may
//! walk a tree: it is read in the background while somebody asks for it, as containerd does, and a call answers with the last reading.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use host::ContainerId;
use image::FsUsage;

/// The shortest time between two readings that give a rate, in nanoseconds; before it the last rate is returned again.
const SHORTEST: i64 = 500_000_000;
const SECOND: u128 = 1_000_000_000;
/// A reading of the written bytes is not renewed for this many times its duration, so that each container's readings take at most
/// one hundredth of a CPU.
const WRITTEN_KEPT: u32 = 100;
/// The oldest reading of the written bytes that is given, if a new one would not take long: what is renewed in the background is
/// younger.
const WRITTEN_AGE_MAX: Duration = Duration::from_secs(20);
/// How long after a question the readings are renewed: kubelet asks every ten seconds.
const ASKED_KEPT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Samples {
    last: Mutex<HashMap<ContainerId, Sample>>,
    written: Mutex<HashMap<ContainerId, Written>>,
    /// When somebody asked for written bytes last.
    asked: Mutex<Option<Instant>>,
}

/// The disk usage of a container at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// In nanoseconds since 1970.
    pub(crate) at: i64,
    pub(crate) usage: FsUsage,
    read: Instant,
    /// Not renewed before.
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
        let now = Instant::now();
        *lock(&self.asked) = Some(now);
        let kept = lock(&self.written).get(id).copied();
        if kept.is_some_and(|kept| kept.until > now || now.saturating_duration_since(kept.read) < WRITTEN_AGE_MAX) {
            return kept;
        }
        let written = Written::read(at, read)?;
        lock(&self.written).insert(id.clone(), written);
        Some(written)
    }

    /// The containers whose disk usage is to be read again; none when nobody has asked for a while.
    pub(crate) fn due(&self) -> Vec<ContainerId> {
        let now = Instant::now();
        if lock(&self.asked).is_none_or(|asked| now.saturating_duration_since(asked) > ASKED_KEPT) {
            return Vec::new();
        }
        lock(&self.written).iter().filter(|(_, kept)| kept.until <= now).map(|(id, _)| id.clone()).collect()
    }

    /// Reads the disk usage of a container again, unless it was forgotten. Blocking.
    pub(crate) fn renew(&self, id: &ContainerId, at: i64, read: impl FnOnce() -> Option<FsUsage>) {
        let Some(written) = Written::read(at, read) else { return };
        if let Some(kept) = lock(&self.written).get_mut(id) {
            *kept = written;
        }
    }

    /// Forgets a container. Idempotent.
    pub(crate) fn forget(&self, id: &ContainerId) {
        lock(&self.last).remove(id);
        lock(&self.written).remove(id);
    }
}

impl Written {
    fn read(at: i64, read: impl FnOnce() -> Option<FsUsage>) -> Option<Self> {
        let begun = Instant::now();
        let usage = read()?;
        let read = Instant::now();
        let kept = (read - begun).saturating_mul(WRITTEN_KEPT).min(Duration::from_secs(3600));
        Some(Self { at, usage, read, until: read + kept })
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
    fn what_somebody_asks_for_is_renewed_until_it_is_forgotten() {
        let (samples, id) = (Samples::default(), ContainerId::random());
        let reading = |bytes: u64| move || Some(FsUsage { bytes, inodes: 1 });
        let given = || samples.written(&id, 2, || panic!("it is recent")).unwrap();
        assert!(samples.due().is_empty());
        samples.renew(&id, 0, reading(9));
        assert_eq!(samples.written(&id, 1, reading(1)).unwrap().usage.bytes, 1);
        // Its reading took next to nothing.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!((samples.due(), given().usage.bytes), (vec![id.clone()], 1));
        samples.renew(&id, 3, reading(2));
        samples.renew(&id, 4, || None);
        assert_eq!((given().at, given().usage.bytes), (3, 2));
        samples.forget(&id);
        samples.renew(&id, 5, reading(3));
        assert!(samples.due().is_empty() && samples.written(&id, 6, || None).is_none());
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
