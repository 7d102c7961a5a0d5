//! Gives the memory of pulls back to the system: glibc's allocator keeps freed memory, for each thread that allocated, and a pull
//! uses many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sys;

/// The delay after a pull or a removal: many at a time cost one round, which takes a few milliseconds.
const DELAY: Duration = Duration::from_secs(1);

/// Whether a round is due.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    due: AtomicBool,
}

impl Memory {
    /// Gives back soon, on a thread.
    pub(crate) fn give_back_soon(self: &Arc<Self>) {
        if !sys::KEEPS_MEMORY || self.due.swap(true, Ordering::Relaxed) {
            return;
        }
        let memory = Arc::clone(self);
        let started = std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
            std::thread::sleep(DELAY);
            memory.due.store(false, Ordering::Relaxed);
            sys::give_back();
        });
        if started.is_err() {
            self.due.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::Barrier;

    use crate::sys;

    /// Threads, each of which has an arena of its own, and bytes that each frees.
    const THREADS: usize = 8;
    const BUFFER: usize = 8 << 20;

    fn anonymous_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    #[test]
    fn large_buffers_go_back_when_they_are_freed() {
        if !sys::KEEPS_MEMORY {
            return;
        }
        sys::keep_little();
        let (before, freed, seen) = (anonymous_bytes(), Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    // glibc learns from the first ones.
                    (0..3).for_each(|_| drop(black_box(vec![1u8; BUFFER])));
                    freed.wait();
                    seen.wait();
                });
            }
            freed.wait();
            let kept = anonymous_bytes().saturating_sub(before);
            seen.wait();
            assert!(kept < THREADS * BUFFER / 2, "{kept} bytes are kept");
        });
    }
}
