//! Watches the memory of a container and its pod, four times a second. The sum of resident sets is cheap and is read each time;
//! only if it exceeds the limit, what processes share is counted once, which decides.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::limits::{on_sum, racct_value};
use super::memory::Estimate;
use super::record::{ContainerRecord, pod_directory, read_limits, state_of};
use super::recount::{Holder, holder_of};
use super::sys::{accounting, memory, process};
use super::{jails, kernel, names};
use crate::Error;
use crate::spec::ContainerSpec;

/// The interval between looks at a container with a memory limit, in milliseconds.
const INTERVAL_MS: u32 = 250;
/// The interval between looks at shared memory that nobody may map: the list is the whole node's.
const NAMED_INTERVAL: Duration = Duration::from_secs(8);

/// Watches the memory of a container and its pod.
pub(super) struct MemoryWatch {
    queue: OwnedFd,
    /// They are watched while open: an update replaces the limits, which are files in them.
    _directories: [File; 2],
    directory: PathBuf,
    pod_directory: PathBuf,
    pod_jail: String,
    holder: Holder,
    own: Watched,
    pod: Watched,
    named: Option<(Instant, u64)>,
}

/// A limit in bytes, and the last count of what it limits.
#[derive(Default)]
struct Watched {
    limit: Option<u64>,
    estimate: Estimate,
}

/// The pod's other container with the most memory: its bytes and its jail.
type Largest = Option<(u64, String)>;

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
        let containers = directory.parent().unwrap_or(directory);
        let mut watch = Self {
            queue,
            _directories: directories,
            directory: directory.to_owned(),
            pod_directory,
            pod_jail: record.pod_jail.clone(),
            holder: Holder::new(record, jid, || host::fs::entries(containers).unwrap_or_default()),
            own: Watched::default(),
            pod: Watched::default(),
            named: None,
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
        self.has_too_much() || self.pod_has_too_much()
    }

    fn has_too_much(&mut self) -> bool {
        let Some(limit) = self.own.limit else { return false };
        let began = Instant::now();
        let sum = self.sum(began);
        if !self.own.estimate.is_due(began, sum, limit) {
            return false;
        }
        // What cannot be asked now is asked a quarter of a second later.
        let Ok(table) = process::all() else { return false };
        let held = self.holder.read(&table);
        let Ok(objects) = memory::objects() else { return false };
        let counted = self.holder.count(&held, &objects);
        self.own.estimate.take(counted, began, Instant::now());
        counted > limit
    }

    /// At least the container's memory: the sum of resident sets and everything that may be in none. The kernel's own sum is a
    /// second old (vm_daemon), that of the monitor's descendants is not, but lacks what was executed later.
    fn sum(&mut self, now: Instant) -> u64 {
        let page = kernel::page_size();
        let resident = |list: Vec<process::Process>| -> u64 {
            list.iter().filter(|one| one.jid == self.holder.jid).map(|one| one.resident * page).sum()
        };
        let (processes, segments) = if kernel::accounting() {
            let usage = accounting::usage(&self.holder.jail).unwrap_or_default();
            let value = |name: &str| racct_value(&usage, name).unwrap_or(0);
            let own = process::descendants().map_or(0, resident);
            (value("memoryuse").max(own), value("shmsize"))
        } else {
            (process::all().map_or(0, resident), 0)
        };
        if self.named.is_none_or(|(at, _)| now.saturating_duration_since(at) >= NAMED_INTERVAL) {
            self.named = Some((now, self.holder.named_shared_memory()));
        }
        let named = self.named.map_or(0, |(_, size)| size);
        processes + segments + named + self.holder.in_tmpfs()
    }

    /// Whether the pod has too much, and this container the most of it.
    fn pod_has_too_much(&mut self) -> bool {
        let (Some(_), Some(limit)) = (self.own.limit, self.pod.limit) else { return false };
        let began = Instant::now();
        let Ok(sum) = self.sum_of_pod() else { return false };
        if !self.pod.estimate.is_due(began, sum, limit) {
            return false;
        }
        // Read only now: the limits of the others change without this monitor.
        let siblings = self.siblings();
        let limits = siblings.iter().filter_map(|(_, name)| self.limit_of(name)).chain([self.own.limit]);
        if on_sum(Some(limit), limits).is_none() {
            return false;
        }
        let Ok((own, total, largest)) = self.count_pod(&siblings) else { return false };
        self.pod.estimate.take(total, began, Instant::now());
        // The largest container of the pod is killed, and of two that are equal one.
        total > limit && largest.is_none_or(|largest| (own, self.holder.jail.clone()) > largest)
    }

    /// The sum of the resident sets of all processes in the pod, in bytes.
    fn sum_of_pod(&self) -> io::Result<u64> {
        if kernel::accounting() {
            let usage = accounting::usage(&self.pod_jail)?;
            let value = |name: &str| racct_value(&usage, name).unwrap_or(0);
            return Ok(value("memoryuse") + value("shmsize"));
        }
        let mut jids: Vec<i32> = self.siblings().into_iter().map(|(jid, _)| jid).collect();
        jids.push(self.holder.jid);
        let pages: u64 = process::all()?.iter().filter(|one| jids.contains(&one.jid)).map(|one| one.resident).sum();
        Ok(pages * kernel::page_size())
    }

    /// Counts the memory of this container and of the whole pod, and finds the largest of the others.
    fn count_pod(&self, siblings: &[(i32, String)]) -> io::Result<(u64, u64, Largest)> {
        let table = process::all()?;
        let containers = self.directory.parent().unwrap_or(&self.directory);
        let own = self.holder.read(&table);
        let others = siblings.iter().filter_map(|(jid, jail)| {
            let holder = holder_of(jail, *jid, containers)?;
            Some((holder.read(&table), holder, jail))
        });
        let others: Vec<_> = others.collect();
        let objects = memory::objects()?;
        let own = self.holder.count(&own, &objects);
        let (mut total, mut largest): (u64, Largest) = (own, None);
        for (held, holder, jail) in others {
            let counted = holder.count(&held, &objects);
            total += counted;
            largest = largest.max(Some((counted, jail.clone())));
        }
        Ok((own, total, largest))
    }

    /// The jails of the pod's other containers, and the jails below these.
    fn siblings(&self) -> Vec<(i32, String)> {
        let below = format!("{}.", self.pod_jail);
        let mut all = jails::list().unwrap_or_default();
        all.retain(|(_, name)| name.starts_with(&below) && *name != self.holder.jail);
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
            (self.own.limit, self.pod.limit) = (own.memory, pod.memory);
        }
        let timer = self.own.limit.map(|_| INTERVAL_MS);
        let _ = process::set_timer(self.queue.as_fd(), timer);
    }
}
