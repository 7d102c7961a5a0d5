//! A cgroup around a server: its tools, monitors or shims are in it too, also those that have ended, but not its containers, which
//! runc puts elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kubernetes::machine::hierarchy;
use crate::wait::until;

/// The cgroup.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    /// Whoever was in it first.
    server: u32,
    parent: PathBuf,
}

impl Group {
    /// Makes one, and puts the server in it.
    pub(super) fn of(name: &str, server: u32) -> Result<Self> {
        let parent = hierarchy("cpuacct")?;
        let directory = parent.join(name);
        fs::create_dir(&directory).with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
        let group = Self { directory, server, parent };
        enter(&group.directory, server)?;
        Ok(group)
    }

    /// The CPU time of all its processes so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        if let Ok(nanoseconds) = fs::read_to_string(self.directory.join("cpuacct.usage")) {
            return Ok(Duration::from_nanos(nanoseconds.trim().parse()?));
        }
        let stat = fs::read_to_string(self.directory.join("cpu.stat"))?;
        let used =
            stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("cpu.stat has no usage_usec")?;
        Ok(Duration::from_micros(used.parse()?))
    }

    /// The number of its processes, and their memory in KiB: of a page that several have, each has its part (proc_pid_smaps(5)).
    pub(super) fn memory(&self) -> Result<(usize, u64)> {
        let processes = self.processes()?;
        let part = |process: &u32| {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
            rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        };
        Ok((processes.len(), processes.iter().filter_map(part).sum()))
    }

    /// Waits until only the server is left; returns the others that stay.
    pub(super) fn left(&self, timeout: Duration) -> Result<Vec<String>> {
        let others = || -> Result<Vec<u32>> {
            Ok(self.processes()?.into_iter().filter(|process| *process != self.server).collect())
        };
        let gone = until(timeout, || {
            let others = others()?;
            ensure!(others.is_empty(), "processes {others:?} are left");
            Ok(())
        });
        if gone.is_ok() {
            return Ok(Vec::new());
        }
        let name = |process: &u32| fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        Ok(others()?.iter().map(|process| format!("process {process} {}", name(process).trim())).collect())
    }

    /// Puts what is in it back where it came from, and removes it.
    pub(super) fn leave(self) -> Result<()> {
        for process in self.processes()? {
            // One that has just ended is in none.
            let _ = enter(&self.parent, process);
        }
        until(Duration::from_secs(10), || Ok(fs::remove_dir(&self.directory)?))
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let list = fs::read_to_string(self.directory.join("cgroup.procs"))?;
        list.lines().map(|line| Ok(line.parse()?)).collect()
    }
}

fn enter(group: &Path, process: u32) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, process.to_string()).with_context(|| format!("cannot put {process} into {}", group.display()))
}
