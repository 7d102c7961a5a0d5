//! The usage of containers: rctl(4)'s counters if the kernel counts, and the process table, whose CPU time is finer than rctl's
//! whole seconds, and which is all there is without kern.racct.enable. The working set has what processes share once, as
//! counted now and then at a bounded cost.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use host::ContainerId;

use super::limits::racct_value;
use super::memory::Budget;
use super::record::ContainerRecord;
use super::recount::Holder;
use super::sys::{accounting, jail, memory, process};
use super::{jails, kernel};
use crate::{Details, Error, Usage};

/// How long a copy of a table of the kernel serves: it is copied whole, and kubelet asks for every container at once.
const FRESH: Duration = Duration::from_secs(1);
/// How long a count of what processes share serves.
const COUNT_AGE: Duration = Duration::from_secs(30);
/// The least sum of resident sets that is worth a count, in bytes.
const WORTH_COUNTING: u64 = 16 << 20;
/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;
/// The limit on remembered containers, more than a node can have; a forgotten one starts from rctl's seconds again.
const REMEMBERED: usize = 10_000;

/// The jails of the node and their processes, at one time.
#[derive(Default)]
struct Table {
    /// Their numbers by their names. To find one by its name, the kernel compares it with those of all jails (prison_find_name in
    /// kern/kern_jail.c): for every container that grows with the square of the pods.
    numbers: HashMap<String, i32>,
    processes: HashMap<i32, Vec<process::Process>>,
    has_swap: bool,
}

impl Table {
    /// Reads the jails first: the processes of every listed jail are then in the table.
    fn read() -> io::Result<Self> {
        let mut table = Self { has_swap: kernel::has_swap(), ..Self::default() };
        table.numbers.extend(jail::all()?.into_iter().map(|(jid, name)| (name, jid)));
        for one in process::all()? {
            table.processes.entry(one.jid).or_default().push(one);
        }
        Ok(table)
    }

    fn of(&self, jid: i32) -> &[process::Process] {
        self.processes.get(&jid).map_or(&[], Vec::as_slice)
    }
}

/// The descriptors and the sockets of each process.
type Files = HashMap<i32, (u64, u64)>;

/// The latest tables of jails and descriptors, and what was reported last.
#[derive(Default)]
pub(super) struct Counters {
    table: Mutex<Option<(Instant, Arc<Table>)>>,
    files: Mutex<Option<(Instant, Arc<Files>)>>,
    reported: Mutex<HashMap<ContainerId, Reported>>,
    counts: Mutex<Counts>,
}

/// The most that was reported of a container. Times must never decrease, and a process that ends takes its fraction of a second
/// with it.
#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    cpu_nanoseconds: u64,
    user_nanoseconds: u64,
    system_nanoseconds: u64,
    memory_bytes: u64,
}

/// The latest counts of memory.
#[derive(Default)]
struct Counts {
    budget: Budget,
    known: HashMap<ContainerId, Count>,
}

/// A count, and the sum of resident sets at its time, in bytes.
struct Count {
    at: Instant,
    sum: u64,
    counted: u64,
}

impl Counters {
    /// The usage of a running container.
    ///
    /// # Errors
    /// [`Error::Conflict`] when its jail has been gone for [`FRESH`]; the kernel cannot be asked.
    pub(super) fn of(
        &self,
        id: &ContainerId,
        record: &ContainerRecord,
        siblings: impl FnOnce() -> Vec<PathBuf>,
    ) -> Result<Usage, Error> {
        let (jid, table) = self.processes(id, record)?;
        let own = table.of(jid);
        let resident = own.iter().map(|one| one.resident).sum::<u64>() * kernel::page_size();
        let holder = Holder::new(record, jid, siblings);
        let working_set = self.working_set(id, &holder, own, resident);
        let mut usage = Usage {
            cpu_nanoseconds: Some(own.iter().map(|one| one.cpu_us).sum::<u64>() * 1_000),
            memory_bytes: Some(resident.max(working_set)),
            working_set_bytes: Some(working_set),
            rss_bytes: Some(resident),
            memory_limit_bytes: None,
            page_faults: Some(own.iter().map(|one| one.minor_faults + one.major_faults).sum()),
            major_page_faults: Some(own.iter().map(|one| one.major_faults).sum()),
            // The kernel counts swapped pages of no jail.
            swap_bytes: (!table.has_swap).then_some(0),
            processes: Some(u64::try_from(own.iter().filter(|one| !one.zombie).count()).unwrap_or(u64::MAX)),
        };
        if kernel::accounting() {
            let answer = accounting::usage(&record.jail).map_err(failed(record))?;
            let seconds = racct_value(&answer, "cputime").unwrap_or(0);
            usage.cpu_nanoseconds = usage.cpu_nanoseconds.max(Some(seconds * SECOND_NS));
            usage.processes = racct_value(&answer, "maxproc").or(usage.processes);
        }
        let now = Reported {
            cpu_nanoseconds: usage.cpu_nanoseconds.unwrap_or(0),
            memory_bytes: usage.memory_bytes.unwrap_or(0),
            ..Reported::default()
        };
        usage.cpu_nanoseconds = Some(self.report(id, now).cpu_nanoseconds);
        Ok(usage)
    }

    /// The details of a running container, with its limit on threads. The peak of its memory is the most that was reported. Nobody
    /// counts what its CPU quota held back, which has no periods (rctl(8)); pages of files and memory of the kernel are charged to no
    /// jail; and a container that meets its limit on memory ends.
    ///
    /// # Errors
    /// As [`Counters::of`].
    pub(super) fn details(&self, id: &ContainerId, record: &ContainerRecord, threads: u64) -> Result<Details, Error> {
        let (jid, table) = self.processes(id, record)?;
        let own = table.of(jid);
        let files = fresh(&self.files, files).map_err(failed(record))?;
        let open = |of: fn(&(u64, u64)) -> u64| own.iter().filter_map(|one| files.get(&one.pid)).map(of).sum();
        let told = self.report(
            id,
            Reported {
                user_nanoseconds: own.iter().map(|one| one.user_us).sum::<u64>() * 1_000,
                system_nanoseconds: own.iter().map(|one| one.system_us).sum::<u64>() * 1_000,
                ..Reported::default()
            },
        );
        let nothing = Some(0);
        Ok(Details {
            user_nanoseconds: Some(told.user_nanoseconds),
            system_nanoseconds: Some(told.system_nanoseconds),
            periods: nothing,
            throttled_periods: nothing,
            throttled_nanoseconds: nothing,
            cache_bytes: nothing,
            mapped_file_bytes: nothing,
            active_file_bytes: nothing,
            inactive_file_bytes: nothing,
            kernel_bytes: nothing,
            peak_bytes: Some(told.memory_bytes),
            limit_hits: nothing,
            memory_kills: nothing,
            threads: Some(own.iter().filter(|one| !one.zombie).map(|one| one.threads).sum()),
            threads_limit: Some(if kernel::accounting() { threads } else { 0 }),
            descriptors: Some(open(|(descriptors, _)| *descriptors)),
            sockets: Some(open(|(_, sockets)| *sockets)),
            ..Details::default()
        })
    }

    /// The working set: counted, or the last count and what the sum has grown by since. One process shares with nobody.
    fn working_set(&self, id: &ContainerId, holder: &Holder, own: &[process::Process], sum: u64) -> u64 {
        let several = own.iter().filter(|one| !one.zombie).nth(1).is_some();
        if !several || sum < WORTH_COUNTING {
            return sum + holder.in_tmpfs();
        }
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = counts.known.get(id).is_some_and(|known| now.saturating_duration_since(known.at) < COUNT_AGE);
        if !fresh && counts.budget.has_left(now) {
            let held = holder.read(own);
            if let Ok(objects) = memory::objects() {
                let counted = holder.count(&held, &objects);
                counts.known.insert(id.clone(), Count { at: now, sum, counted });
            }
            let ended = Instant::now();
            counts.budget.spend(ended.saturating_duration_since(now), ended);
        }
        let known = counts.known.get(id);
        known.map_or(sum + holder.in_tmpfs(), |known| known.counted + sum.saturating_sub(known.sum))
    }

    /// The jail of a running container, and the latest table. A jail that is younger than the table is looked for by its name.
    fn processes(&self, id: &ContainerId, record: &ContainerRecord) -> Result<(i32, Arc<Table>), Error> {
        let table = fresh(&self.table, Table::read).map_err(failed(record))?;
        if let Some(jid) = table.numbers.get(&record.jail) {
            return Ok((*jid, table));
        }
        let found = jails::find(&record.jail)?;
        let found = found.ok_or_else(|| Error::conflict(format!("container {} is not running", id.short())))?;
        Ok((found.jid, table))
    }

    /// Returns the most that was reported of a container, this included.
    fn report(&self, id: &ContainerId, now: Reported) -> Reported {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() >= REMEMBERED {
            reported.clear();
        }
        let last = reported.entry(id.clone()).or_default();
        *last = Reported {
            cpu_nanoseconds: now.cpu_nanoseconds.max(last.cpu_nanoseconds),
            user_nanoseconds: now.user_nanoseconds.max(last.user_nanoseconds),
            system_nanoseconds: now.system_nanoseconds.max(last.system_nanoseconds),
            memory_bytes: now.memory_bytes.max(last.memory_bytes),
        };
        *last
    }

    /// Forgets a container.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).known.remove(id);
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn failed(record: &ContainerRecord) -> impl FnOnce(io::Error) -> Error {
    Error::failed(format!("cannot tell what jail {} uses", record.jail))
}

/// The latest copy of a table of the kernel, or a new one.
fn fresh<T>(copy: &Mutex<Option<(Instant, Arc<T>)>>, read: impl FnOnce() -> io::Result<T>) -> io::Result<Arc<T>> {
    let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
    match &*copy {
        Some((at, known)) if at.elapsed() < FRESH => Ok(Arc::clone(known)),
        _ => {
            let known = Arc::new(read()?);
            *copy = Some((Instant::now(), Arc::clone(&known)));
            Ok(known)
        }
    }
}

fn files() -> io::Result<Files> {
    let mut processes = Files::new();
    for one in process::descriptors()? {
        let of = processes.entry(one.pid).or_default();
        *of = (of.0 + 1, of.1 + u64::from(one.socket));
    }
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use host::ContainerId;

    use super::Counters;
    use crate::Error;
    use crate::freebsd::params::Value;
    use crate::freebsd::record::ContainerRecord;
    use crate::freebsd::sys::jail;
    use crate::spec::Identity;

    #[test]
    fn a_jail_is_found_that_is_younger_than_the_table() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root makes jails");
            return;
        }
        let (counters, id, name) = (Counters::default(), ContainerId::random(), format!("zx{}", std::process::id()));
        let identity = Identity { uid: 0, gid: 0, groups: Vec::new() };
        let record = ContainerRecord::new(name.clone(), "zx".to_owned(), "/".into(), identity);
        let find = || counters.processes(&id, &record).map(|(jid, _)| jid);
        assert!(matches!(find(), Err(Error::Conflict { .. })));
        let text = |name: &str, value: &str| (name.to_owned(), Value::Text(value.to_owned()));
        let made =
            jail::create(&vec![text("name", &name), text("path", "/"), ("persist".to_owned(), Value::Flag)]).unwrap();
        let found = find();
        made.remove().unwrap();
        assert_eq!(found.unwrap(), made.jid);
    }
}
