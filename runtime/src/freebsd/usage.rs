//! The usage of containers: rctl(4)'s counters if the kernel counts, and the process table, whose CPU time is finer than rctl's
//! whole seconds, and which is all there is without kern.racct.enable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use host::ContainerId;

use super::limits::racct_value;
use super::sys::{accounting, process};
use super::{jails, kernel};
use crate::{Error, Usage};

/// How long a copy of the process table serves: it is copied whole, and kubelet asks for every container at once.
const FRESH: Duration = Duration::from_secs(1);
/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;
/// The limit on remembered containers, more than a node can have; a forgotten one starts from rctl's seconds again.
const REMEMBERED: usize = 10_000;

/// The latest process table, and the CPU time reported last. It must never decrease, and a process that ends takes its fraction
/// of a second with it.
#[derive(Default)]
pub(super) struct Counters {
    table: Mutex<Option<(Instant, Arc<Vec<process::Process>>)>>,
    reported: Mutex<HashMap<ContainerId, u64>>,
}

impl Counters {
    /// The usage of a running container.
    ///
    /// # Errors
    /// [`Error::Conflict`] when its jail is gone; the kernel cannot be asked.
    pub(super) fn of(&self, id: &ContainerId, jail: &str) -> Result<Usage, Error> {
        let failed = || format!("cannot tell what jail {jail} uses");
        let found = jails::find(jail)?;
        let jid = found.map(|found| found.jid);
        let jid = jid.ok_or_else(|| Error::conflict(format!("container {} is not running", id.short())))?;
        let table = self.table().map_err(Error::failed(failed()))?;
        let own = || table.iter().filter(|one| one.jid == jid);
        let resident = own().map(|one| one.resident).sum::<u64>() * kernel::page_size();
        let mut usage = Usage {
            cpu_nanoseconds: Some(own().map(|one| one.cpu_us).sum::<u64>() * 1_000),
            memory_bytes: Some(resident),
            working_set_bytes: Some(resident),
            rss_bytes: Some(resident),
            memory_limit_bytes: None,
            page_faults: Some(own().map(|one| one.minor_faults + one.major_faults).sum()),
            major_page_faults: Some(own().map(|one| one.major_faults).sum()),
            swap_bytes: None,
            processes: Some(u64::try_from(own().filter(|one| !one.zombie).count()).unwrap_or(u64::MAX)),
        };
        if kernel::accounting() {
            let answer = accounting::usage(jail).map_err(Error::failed(failed()))?;
            let seconds = racct_value(&answer, "cputime").unwrap_or(0);
            usage.cpu_nanoseconds = usage.cpu_nanoseconds.max(Some(seconds * SECOND_NS));
            usage.processes = racct_value(&answer, "maxproc").or(usage.processes);
        }
        usage.cpu_nanoseconds = usage.cpu_nanoseconds.map(|now| self.report(id, now));
        Ok(usage)
    }

    fn table(&self) -> std::io::Result<Arc<Vec<process::Process>>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match &*table {
            Some((at, known)) if at.elapsed() < FRESH => Ok(Arc::clone(known)),
            _ => {
                let known = Arc::new(process::all()?);
                *table = Some((Instant::now(), Arc::clone(&known)));
                Ok(known)
            }
        }
    }

    fn report(&self, id: &ContainerId, now: u64) -> u64 {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() >= REMEMBERED {
            reported.clear();
        }
        let last = reported.entry(id.clone()).or_default();
        *last = now.max(*last);
        *last
    }

    /// Forgets a container.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}
