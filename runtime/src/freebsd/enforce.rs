//! Enforces limits on a container's jail: rctl(4)'s rules, the CPU set, and the memory, which the monitor watches.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::limits::{Limits, on_sum, racct_value};
use super::record::{ContainerRecord, pod_directory, read_limits, state_of};
use super::sys::{accounting, process};
use super::{jails, kernel, names};
use crate::Error;
use crate::spec::ContainerSpec;

/// The interval between looks at a container with a memory limit, in milliseconds: the kernel itself counts resident memory
/// once a second (vm_daemon).
const INTERVAL_MS: u32 = 250;

/// The limits of a container, at most those of its pod.
pub(super) fn wanted(directory: &Path, spec: &ContainerSpec) -> Result<Limits, Error> {
    let pod = read_limits(&pod_directory(state_of(directory), &spec.pod))?;
    Ok(read_limits(directory)?.within(&pod))
}

/// Replaces the rules and the CPU set of a jail. Without kern.racct.enable there are no rules, as `needs` reports.
///
/// # Errors
/// Any error of the kernel; [`Error::Invalid`] for CPUs that do not exist.
pub(super) fn apply(jail: &str, jid: i32, limits: &Limits) -> Result<(), Error> {
    if kernel::accounting() {
        jails::remove_rules(jail)?;
        for rule in limits.rules(jail) {
            accounting::add_rule(&rule).map_err(Error::failed(format!("cannot add the rule {rule}")))?;
        }
    }
    if let Some(cpus) = &limits.cpus {
        accounting::confine(jid, cpus).map_err(|error| match error.raw_os_error() {
            // EDEADLK: none of them exists (cpuset_setaffinity(2)).
            Some(libc::EDEADLK | libc::EINVAL) => {
                Error::invalid("resources.cpuset_cpus", format!("{cpus:?} are not CPUs of this machine"))
            }
            _ => Error::failed(format!("cannot confine jail {jail} to CPUs {cpus:?}"))(error),
        })?;
    }
    Ok(())
}

/// The memory of a jail's processes, in bytes.
fn memory_of(jail: &str, jid: i32) -> io::Result<u64> {
    if kernel::accounting() {
        return Ok(racct_value(&accounting::usage(jail)?, "memoryuse").unwrap_or(0));
    }
    let pages: u64 = process::all()?.iter().filter(|one| one.jid == jid).map(|one| one.resident).sum();
    Ok(pages * kernel::page_size())
}

/// Watches the memory of a container and its pod.
pub(super) struct MemoryWatch {
    queue: OwnedFd,
    /// They are watched while open: an update replaces the limits, which are files in them.
    _directories: [File; 2],
    directory: PathBuf,
    pod_directory: PathBuf,
    jail: String,
    pod_jail: String,
    jid: i32,
    own: Option<u64>,
    pod: Option<u64>,
}

impl MemoryWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// The limits cannot be read; the kernel has no queue left.
    pub(super) fn new(
        directory: &Path,
        spec: &ContainerSpec,
        record: &ContainerRecord,
        jid: i32,
    ) -> Result<Self, Error> {
        let pod_directory = pod_directory(state_of(directory), &spec.pod);
        let begin = || -> io::Result<(OwnedFd, [File; 2])> {
            let queue = process::queue()?;
            let directories = [File::open(directory)?, File::open(&pod_directory)?];
            for one in &directories {
                process::watch_directory(queue.as_fd(), one)?;
            }
            Ok((queue, directories))
        };
        let (queue, directories) = begin().map_err(Error::failed("cannot watch a container's memory"))?;
        let mut watch = Self {
            queue,
            _directories: directories,
            directory: directory.to_owned(),
            pod_directory,
            jail: record.jail.clone(),
            pod_jail: record.pod_jail.clone(),
            jid,
            own: None,
            pod: None,
        };
        watch.reread();
        Ok(watch)
    }

    /// The descriptor to poll.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Whether the container must be killed now. Called when the descriptor is readable.
    pub(super) fn check(&mut self) -> bool {
        // An event that stays is seen by the next wait.
        let _ = process::drain(self.queue.as_fd());
        self.reread();
        let own = memory_of(&self.jail, self.jid).unwrap_or(0);
        if self.own.is_some_and(|limit| own > limit) {
            return true;
        }
        if self.own.is_none() || self.pod.is_none() {
            return false;
        }
        let used = accounting::usage(&self.pod_jail).ok().and_then(|usage| racct_value(&usage, "memoryuse"));
        if used <= self.pod {
            return false;
        }
        // Read only now: the limits of the others change without this monitor.
        let siblings = self.siblings();
        let limits = siblings.iter().filter_map(|(_, name)| self.limit_of(name)).chain([self.own]);
        let is_largest = || siblings.iter().all(|(jid, name)| memory_of(name, *jid).unwrap_or(0) <= own);
        // The largest container of the pod is killed.
        on_sum(self.pod, limits).is_some() && is_largest()
    }

    /// The jails of the pod's other containers, and the jails below these.
    fn siblings(&self) -> Vec<(i32, String)> {
        let below = format!("{}.", self.pod_jail);
        let mut all = jails::list().unwrap_or_default();
        all.retain(|(_, name)| name.starts_with(&below) && *name != self.jail);
        all
    }

    /// The memory limit of the container with this jail; None: the jail is no container's.
    fn limit_of(&self, jail: &str) -> Option<Option<u64>> {
        let directory = self.directory.with_file_name(names::container_in(jail)?);
        Some(read_limits(&directory).ok().and_then(|limits| limits.memory))
    }

    /// Reads the limits. Unreadable ones stay as before; without its own limit the container needs no timer.
    fn reread(&mut self) {
        if let (Ok(own), Ok(pod)) = (read_limits(&self.directory), read_limits(&self.pod_directory)) {
            (self.own, self.pod) = (own.memory, pod.memory);
        }
        let timer = self.own.map(|_| INTERVAL_MS);
        let _ = process::set_timer(self.queue.as_fd(), timer);
    }
}
