//! Measures a server with its workers: processor time, and anonymous memory, which no page cache is in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};

/// How often memory is read: often enough for the peak of a pull of a second, and seldom enough to leave the processors to it.
const PAUSE: Duration = Duration::from_millis(25);
/// Clock ticks of a second in /proc (proc_pid_stat(5)): 100 on every Linux of today.
const TICKS: f64 = 100.0;

/// The highest anonymous memory of a process and its descendants in MiB while something runs. That takes longer than without: where a
/// descendant's directory in /proc was looked at, the kernel has a walk to do when the descendant is waited for, and on a busy machine
/// that walk can spin for a tenth of a second (`proc_invalidate_siblings_dcache`, `shrink_dcache_parent`).
pub fn highest_mib<T>(pid: u32, work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                most = most.max(anonymous_kib(pid));
                std::thread::sleep(PAUSE);
            }
            most
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let most = sampler.join().unwrap_or_default();
        // Exact below 2^53.
        done.map(|_| most as f64 / 1024.0)
    })
}

/// Anonymous memory of a process and its descendants, in KiB. Processes that end meanwhile are left out, and so are those that have not
/// executed their program yet: their memory is their parent's (vfork(2)).
pub fn anonymous_kib(pid: u32) -> u64 {
    let of = |line: &str| line.strip_prefix("RssAnon:")?.trim().trim_end_matches(" kB").parse::<u64>().ok();
    let own = read(pid, "status").lines().find_map(of).unwrap_or_default();
    let arguments = read(pid, "cmdline");
    let executed = children(pid).into_iter().filter(|child| read(*child, "cmdline") != arguments);
    own + executed.map(anonymous_kib).sum::<u64>()
}

fn read(pid: u32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let list = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let lists = tasks.into_iter().flatten().flatten().map(list);
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Processor time of a process and the children that it has waited for, in seconds; 0 if it has ended.
pub fn processor_seconds(pid: u32) -> f64 {
    times(pid).unwrap_or_default().iter().sum()
}

/// The processor times of a process in seconds: its own of user and system mode, and those of the children that it has waited for
/// (utime, stime, cutime and cstime in proc_pid_stat(5)).
pub fn times(pid: u32) -> Result<[f64; 4]> {
    let stat = read(pid, "stat");
    // The name, which may hold anything, ends with the last parenthesis; utime is the 14th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse().ok()).collect();
    let ticks: [f64; 4] = ticks.try_into().map_err(|_| anyhow!("/proc/{pid}/stat has no times: {stat}"))?;
    Ok(ticks.map(|ticks| ticks / TICKS))
}
