//! The last readings of containers: of CPU time, since CRI wants a rate in nanocores too, and of disk usage, since reading that may
//! walk a tree. Disk usage is read in the background while somebody asks for it, as containerd does. A call answers with the last
//! reading, however long the background takes to renew it, and reads only where there is none. When nobody asks any more, readings
//! that are not renewed are dropped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use host::ContainerId;
use image::FsUsage;

/// The shortest time between two readings that give a rate, in nanoseconds; before it the last rate is returned again.
const SHORTEST: i64 = 500_000_000;
const SECOND: u128 = 1_000_000_000;
/// A reading of the written bytes is not renewed for this many times its duration, so that each container's readings take at most
/// one twentieth of a CPU; kubelet evicts by them, so they should not be old either.
const WRITTEN_KEPT: u32 = 20;
/// The longest time in which a reading is not renewed, however long it took.
const WRITTEN_KEPT_MAX: Duration = Duration::from_secs(3600);
/// How long after a question the readings are renewed: kubelet asks every ten seconds.
const ASKED_KEPT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Samples {
    last: Mutex<HashMap<ContainerId, Sample>>,
    /// The background renews each of these.
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
        if (0..SHORTEST).contains(&(at - before.at)) {
            return before.rate;
        }
        // After a restart of the container it counts from 0. A clock that was set back gives no rate, but a new beginning.
        let used = u128::from(cpu.saturating_sub(before.cpu));
        let rate = u128::try_from(at - before.at).map_or(before.rate.into(), |time| used * SECOND / time);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        last.insert(id.clone(), Sample { at, cpu, rate });
        rate
    }

    /// Returns the disk usage of a container: the last reading, or where there is none a new one by `read`. None: it fails.
    /// Blocking.
    pub(crate) fn written(
        &self,
        id: &ContainerId,
        at: i64,
        read: impl FnOnce() -> Result<FsUsage, image::Error>,
    ) -> Option<Written> {
        *lock(&self.asked) = Some(Instant::now());
        let kept = lock(&self.written).get(id).copied();
        if kept.is_some() {
            return kept;
        }
        let written = Written::read(at, read).ok()?;
        // Another call may have read it meanwhile, and the background renewed that.
        Some(*lock(&self.written).entry(id.clone()).or_insert(written))
    }

    /// The containers whose disk usage is to be read again. If nobody has asked for a while, there are none, and this drops the
    /// readings that would be due: the next call would give them, however old they are.
    pub(crate) fn due(&self, now: Instant) -> Vec<ContainerId> {
        let asked = lock(&self.asked).is_some_and(|asked| now.saturating_duration_since(asked) <= ASKED_KEPT);
        let mut written = lock(&self.written);
        if !asked {
            written.retain(|_, kept| kept.until > now);
            return Vec::new();
        }
        written.iter().filter(|(_, kept)| kept.until <= now).map(|(id, _)| id.clone()).collect()
    }

    /// Reads the disk usage of a container again, unless it was forgotten. Forgets the reading of one without a root: a call that
    /// read it during its removal may have kept it after [`Samples::forget`]. After another error the last reading stays. Blocking.
    pub(crate) fn renew(&self, id: &ContainerId, at: i64, read: impl FnOnce() -> Result<FsUsage, image::Error>) {
        match Written::read(at, read) {
            Ok(written) => {
                if let Some(kept) = lock(&self.written).get_mut(id) {
                    *kept = written;
                }
            }
            Err(image::Error::NotFound { .. }) => {
                lock(&self.written).remove(id);
            }
            Err(_) => {}
        }
    }

    /// Forgets a container. Idempotent.
    pub(crate) fn forget(&self, id: &ContainerId) {
        lock(&self.last).remove(id);
        lock(&self.written).remove(id);
    }
}

impl Written {
    fn read(at: i64, read: impl FnOnce() -> Result<FsUsage, image::Error>) -> Result<Self, image::Error> {
        let begun = Instant::now();
        let usage = read()?;
        let ended = Instant::now();
        let kept = (ended - begun).saturating_mul(WRITTEN_KEPT).min(WRITTEN_KEPT_MAX);
        Ok(Self { at, usage, until: ended + kept })
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use host::ContainerId;
    use image::{Error, FsUsage};

    use super::{ASKED_KEPT, Samples, Written, lock};

    const MOMENT: Duration = Duration::from_nanos(1);

    fn reading(bytes: u64) -> impl FnOnce() -> Result<FsUsage, Error> {
        move || Ok(FsUsage { bytes, inodes: 1 })
    }

    /// Keeps a reading from the time 1.
    fn keep(samples: &Samples, id: &ContainerId, until: Instant) {
        let usage = FsUsage { bytes: 1, inodes: 1 };
        lock(&samples.written).insert(id.clone(), Written { at: 1, usage, until });
    }

    fn missing() -> Result<FsUsage, Error> {
        Err(Error::not_found("root"))
    }

    #[test]
    fn a_reading_that_took_long_is_renewed_late() {
        let (samples, id, begun) = (Samples::default(), ContainerId::random(), Instant::now());
        let slow = || {
            std::thread::sleep(Duration::from_millis(50));
            reading(1)()
        };
        let until = samples.written(&id, 1, slow).unwrap().until;
        assert!(until >= begun + Duration::from_secs(1));
        *lock(&samples.asked) = Some(until);
        assert_eq!((samples.due(until - MOMENT), samples.due(until)), (vec![], vec![id]));
    }

    #[test]
    fn a_call_gives_the_last_reading_however_long_it_is_not_renewed() {
        let (samples, id, now) = (Samples::default(), ContainerId::random(), Instant::now());
        keep(&samples, &id, now.checked_sub(Duration::from_secs(60)).unwrap());
        for _ in 0..2 {
            assert_eq!(samples.written(&id, 2, || panic!("it is read again")).unwrap().at, 1);
            // The background is about to renew it, or takes long for others.
            assert_eq!(samples.due(now), std::slice::from_ref(&id));
        }
    }

    #[test]
    fn readings_that_are_due_are_dropped_when_nobody_asks() {
        let (samples, due, later, now) =
            (Samples::default(), ContainerId::random(), ContainerId::random(), Instant::now());
        keep(&samples, &due, now);
        keep(&samples, &later, now + MOMENT);
        let asked = now.checked_sub(ASKED_KEPT).unwrap();
        *lock(&samples.asked) = Some(asked);
        assert_eq!(samples.due(now), std::slice::from_ref(&due));
        for asked in [Some(asked.checked_sub(MOMENT).unwrap()), None] {
            *lock(&samples.asked) = asked;
            assert!(samples.due(now).is_empty());
            assert_eq!(lock(&samples.written).keys().collect::<Vec<_>>(), [&later]);
        }
        assert_eq!(samples.written(&due, 2, reading(2)).unwrap().at, 2);
    }

    #[test]
    fn a_reading_is_renewed_until_it_is_forgotten() {
        let (samples, id) = (Samples::default(), ContainerId::random());
        let given = || samples.written(&id, 2, missing).map(|written| (written.at, written.usage.bytes));
        samples.renew(&id, 0, reading(9));
        assert_eq!(given(), None);
        samples.written(&id, 1, reading(1)).unwrap();
        samples.renew(&id, 3, reading(2));
        samples.renew(&id, 4, || Err(Error::invalid("the disk", "it fails")));
        assert_eq!(given(), Some((3, 2)));
        samples.forget(&id);
        samples.renew(&id, 5, reading(3));
        assert_eq!(given(), None);
    }

    #[test]
    fn a_reading_that_was_kept_after_its_container_was_removed_goes() {
        let (samples, id) = (Samples::default(), ContainerId::random());
        let removed_meanwhile = || {
            samples.forget(&id);
            reading(1)()
        };
        let until = samples.written(&id, 1, removed_meanwhile).unwrap().until;
        assert_eq!(samples.due(until), std::slice::from_ref(&id));
        samples.renew(&id, 2, missing);
        assert!(samples.due(until).is_empty() && lock(&samples.written).is_empty());
    }

    #[test]
    fn a_rate_is_what_was_used_since_the_last_reading() {
        let (samples, id, second) = (Samples::default(), ContainerId::random(), 1_000_000_000);
        assert_eq!(samples.rate(&id, 12 * second, 1_000_000_000, 10 * second), 500_000_000);
        assert_eq!(samples.rate(&id, 13 * second, 3_000_000_000, 10 * second), 2_000_000_000);
        assert_eq!(samples.rate(&id, 13 * second + 1, 3_000_000_001, 10 * second), 2_000_000_000);
        samples.forget(&id);
        assert_eq!(samples.rate(&id, 14 * second, 0, 13 * second), 0);
        // The clock is set back.
        assert_eq!(samples.rate(&id, 4 * second, 1_000_000_000, 13 * second), 0);
        assert_eq!(samples.rate(&id, 6 * second, 2_000_000_000, 13 * second), 500_000_000);
    }
}
