//! Measures a server with its workers: processor time, and anonymous memory, which no page cache is in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// How often memory is read: often enough for the peak of a pull of a second, and seldom enough to leave the processors to it.
const PAUSE: Duration = Duration::from_millis(25);
/// Clock ticks of a second in /proc (proc_pid_stat(5)): 100 on every Linux of today.
const TICKS: f64 = 100.0;

/// Samples the memory of a process and its descendants until it is stopped.
pub struct Meter {
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<u64>,
    pid: u32,
    before: f64,
}

impl Meter {
    /// Starts.
    pub fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sampler = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(anonymous_kib(pid));
                std::thread::sleep(PAUSE);
            }
            most
        });
        Self { stop, sampler, pid, before: processor_seconds(pid) }
    }

    /// The highest memory in MiB, and the seconds of processor time.
    pub fn stop(self) -> (f64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        let most = self.sampler.join().unwrap_or_default();
        // Exact below 2^53.
        (most as f64 / 1024.0, processor_seconds(self.pid) - self.before)
    }
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
fn processor_seconds(pid: u32) -> f64 {
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
