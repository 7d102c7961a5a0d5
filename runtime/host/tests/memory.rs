//! A process gives back what it has freed, on however many threads. A process of its own: memory counts for all tests of one.

#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

/// Threads, each of which gets a heap of its own while processors suffice.
const THREADS: usize = 8;
/// A block that raises glibc's thresholds when it is freed, in bytes.
const LARGE: usize = 16 << 20;
/// Blocks that lie in a heap, in bytes and number.
const SMALL: (usize, usize) = (4 << 10, 4 << 10);

#[test]
fn freed_memory_of_many_threads_goes_back_to_the_kernel() {
    host::memory::set_thresholds();
    let before = anonymous_mib();
    let barrier = std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                drop(vec![1_u8; LARGE]);
                let blocks: Vec<Vec<u8>> = (0..SMALL.1).map(|_| vec![1; SMALL.0]).collect();
                // All at once: a heap that is free would be used again.
                barrier.wait();
                drop(blocks);
            });
        }
    });
    host::memory::give_back();
    let kept = anonymous_mib() - before;
    assert!(kept < LARGE as i64 >> 20, "{kept} MiB of {} stay", THREADS * 16);
}

fn anonymous_mib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() / 1024
}
