//! The memory of a container as the kernel knows it: the resident sets of its processes, what they share, tmpfs file systems,
//! and shared memory that nobody maps. [`super::memory`] does the arithmetic.

use std::path::{Path, PathBuf};

use super::limits::racct_value;
use super::memory::{self, Mapping, Object};
use super::record::ContainerRecord;
use super::sys::process::Process;
use super::sys::{accounting, memory as table, mount};
use super::{kernel, names};

/// A container whose memory is counted.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) jail: String,
    pub(super) jid: i32,
    pub(super) root: PathBuf,
    tmpfs: Vec<PathBuf>,
}

/// What the processes of a container have.
#[derive(Debug)]
pub(super) struct Held {
    mappings: Vec<Mapping>,
    /// The sum of their resident sets, in bytes.
    resident: u64,
    /// That of those whose mappings cannot be read.
    unknown: u64,
}

impl Holder {
    /// A container with this jail. What another container of its pod mounts too is nobody's: who filled it is not known. Of the
    /// directories of `containers`, those of its pod's count.
    pub(super) fn new(record: &ContainerRecord, jid: i32, containers: impl FnOnce() -> Vec<PathBuf>) -> Self {
        let mut tmpfs = record.tmpfs.clone();
        if tmpfs.iter().any(|on| !on.starts_with(&record.root)) {
            let others = others(record, &containers());
            tmpfs.retain(|on| !others.contains(on));
        }
        Self { jail: record.jail.clone(), jid, root: record.root.clone(), tmpfs }
    }

    /// The bytes in its tmpfs file systems.
    pub(super) fn in_tmpfs(&self) -> u64 {
        self.tmpfs.iter().filter_map(|on| mount::used_of_tmpfs(on)).sum()
    }

    /// The sizes of the POSIX shared memory with a name below its root, in bytes: more than what is resident.
    pub(super) fn named_shared_memory(&self) -> u64 {
        let all = table::named_shared_memory().unwrap_or_default();
        all.iter().filter(|(name, _)| Path::new(name).starts_with(&self.root)).map(|(_, size)| size).sum()
    }

    /// Reads what its processes have, given those of the node.
    pub(super) fn read(&self, processes: &[Process]) -> Held {
        let page = kernel::page_size();
        let (mut mappings, mut resident, mut unknown): (Vec<Mapping>, u64, u64) = (Vec::new(), 0, 0);
        for process in processes.iter().filter(|one| one.jid == self.jid && !one.zombie) {
            resident += process.resident * page;
            match table::mappings(process.pid) {
                Ok(found) => mappings.extend(found),
                // It ended, or is just about to run another program (`p_candebug` in kern/kern_prot.c): what it had is
                // going, and a fork of the one with the shared memory has all of that.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBUSY)) => {}
                // Nothing can be shown to be shared.
                Err(_) => unknown += process.resident * page,
            }
        }
        Held { mappings, resident, unknown }
    }

    /// Counts its memory, in bytes. The kernel's objects are listed after what its processes have was read: a fork makes new ones,
    /// which an older list has not.
    pub(super) fn count(&self, held: &Held, objects: &[Object]) -> u64 {
        let counted = memory::count(&held.mappings, objects, &self.root, kernel::page_size());
        let unmapped = segments_of(&self.jail).saturating_sub(counted.segments);
        // Pages of a file that lie in memory without being mapped are seen too.
        (counted.mapped + held.unknown).min(held.resident) + counted.named + unmapped + self.in_tmpfs()
    }
}

/// The sizes of the System V segments that a jail made, in bytes. Only rctl(4) tells.
fn segments_of(jail: &str) -> u64 {
    if !kernel::accounting() {
        return 0;
    }
    accounting::usage(jail).ok().and_then(|usage| racct_value(&usage, "shmsize")).unwrap_or(0)
}

/// The tmpfs file systems of the other containers of a pod.
fn others(record: &ContainerRecord, containers: &[PathBuf]) -> Vec<PathBuf> {
    let below = format!("{}.", record.pod_jail);
    let records = containers.iter().filter_map(|entry| ContainerRecord::read(entry).ok().flatten());
    let siblings = records.filter(|other| other.jail.starts_with(&below) && other.jail != record.jail);
    siblings.flat_map(|other| other.tmpfs).collect()
}

/// The container with this jail, which another monitor watches; None: the jail is no container's.
pub(super) fn holder_of(jail: &str, jid: i32, containers: &Path) -> Option<Holder> {
    let record = ContainerRecord::read(&containers.join(names::container_in(jail)?)).ok().flatten()?;
    Some(Holder::new(&record, jid, || host::fs::entries(containers).unwrap_or_default()))
}
