//! Counts the memory of a container once, however many processes share it, and decides when that is worth its cost: the sum of
//! resident sets, which is cheap, has a shared page once for each process. Pages of files are not counted: the kernel takes
//! them back before memory runs out. All of it is arithmetic on what the kernel says ([`super::recount`] asks it).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// The name that the kernel gives POSIX shared memory without one (`shm_get_path` in kern/uipc_shm.c).
pub(super) const NAMELESS: &str = "anon";
/// Counting takes this part of the time of one core at most: 2 %.
const COST_FACTOR: u32 = 50;
/// A count is made again after this time, even if the sum did not grow: one process may have given back what another took.
const COUNT_AGE: Duration = Duration::from_secs(15);

/// The mapped pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backing {
    /// Anonymous memory, by the id of its object.
    Anonymous(u64),
    /// A System V segment.
    SystemV,
    /// POSIX shared memory without a name. What has one is counted by its name, mapped or not.
    Nameless,
    /// Pages of a file that the process has changed for itself, with the file's under them. Their object has no id.
    CopyOfFile,
    /// Something whose pages are not the process'.
    Other,
}

/// One mapping of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) backing: Backing,
    /// Its length.
    pub(super) bytes: u64,
    /// The resident pages that can be seen in it.
    pub(super) visible: u64,
    /// The resident pages of its object; 0: the object lies over another one.
    pub(super) resident: u64,
    /// The references to its object.
    pub(super) references: u64,
}

/// An object of the kernel with anonymous or shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// Its id; 0: it is not anonymous.
    pub(super) id: u64,
    /// The object under it, whose pages are seen where it has none; 0: none.
    pub(super) below: u64,
    /// Its resident pages.
    pub(super) resident: u64,
    /// The name of POSIX shared memory, as the host sees it; else empty.
    pub(super) name: String,
}

/// The result of a count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// What is mapped, but for named POSIX shared memory, in bytes.
    pub(super) mapped: u64,
    /// Named POSIX shared memory, mapped or not, in bytes.
    pub(super) named: u64,
    /// The sizes of the System V segments that are mapped, in bytes.
    pub(super) segments: u64,
}

/// Counts what the processes with these mappings hold, by a list of objects that is newer than these, and the POSIX shared memory with
/// names below their root.
///
/// Anonymous memory is counted by object, each once, through all objects under it: what a fork left is shared. An object
/// without an id is divided by its references, so that all mappings of it together count it once. The name or the descriptor
/// of shared memory is a reference too; where it is gone, what two processes share is counted twice at most.
pub(super) fn count(mappings: &[Mapping], objects: &[Object], root: &Path, page: u64) -> Counted {
    let known: HashMap<u64, &Object> = objects.iter().map(|object| (object.id, object)).collect();
    let mut seen = HashSet::new();
    let named = objects.iter().filter(|object| object.id == 0 && Path::new(&object.name).starts_with(root));
    let named = named.map(|object| object.resident * page).sum();
    let mut counted = Counted { named, ..Counted::default() };
    for mapping in mappings {
        let holders = mapping.references.saturating_sub(1).max(1);
        counted.mapped += page
            * match mapping.backing {
                Backing::Anonymous(id) => chain(id, &known, &mut seen),
                Backing::SystemV | Backing::Nameless => mapping.resident / holders,
                Backing::CopyOfFile => mapping.visible / mapping.references.max(1),
                Backing::Other => 0,
            };
        if mapping.backing == Backing::SystemV {
            counted.segments += mapping.bytes / holders;
        }
    }
    counted
}

/// The pages of an object and of those under it that were not seen yet. An object that is not known has gone since the mappings were
/// read, and its pages with it or into another.
fn chain(first: u64, known: &HashMap<u64, &Object>, seen: &mut HashSet<u64>) -> u64 {
    let (mut id, mut pages) = (first, 0);
    while id != 0 && seen.insert(id) {
        let Some(object) = known.get(&id) else { return pages };
        pages += object.resident;
        id = object.below;
    }
    pages
}

/// The last count, and how far the sum has grown since: the memory is at most both together, unless a process gave back
/// shared pages meanwhile.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    last: Option<Last>,
    sum: u64,
    budget: Budget,
}

#[derive(Debug)]
struct Last {
    counted: u64,
    grown: u64,
    at: Instant,
}

impl Estimate {
    /// Whether the memory must be counted now, given the sum of resident sets.
    pub(super) fn is_due(&mut self, now: Instant, sum: u64, limit: u64) -> bool {
        let growth = sum.saturating_sub(std::mem::replace(&mut self.sum, sum));
        let Some(last) = &mut self.last else { return sum > limit };
        last.grown = last.grown.saturating_add(growth);
        let is_old = now.saturating_duration_since(last.at) >= COUNT_AGE;
        let suspicious = last.counted.saturating_add(last.grown) > limit || is_old;
        sum > limit && suspicious && self.budget.has_left(now)
    }

    /// Takes a count that began at this time.
    pub(super) fn take(&mut self, counted: u64, began: Instant, ended: Instant) {
        self.budget.spend(ended.saturating_duration_since(began), ended);
        self.last = Some(Last { counted, grown: 0, at: ended });
    }
}

/// What counting may take: a fiftieth of the time. What was not taken is saved, so that an overrun after a quiet time is seen at
/// once.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Spent until this time.
    until: Option<Instant>,
}

impl Budget {
    /// The time whose share can be saved.
    const SAVED: Duration = Duration::from_secs(10);

    /// Whether something is left.
    pub(super) fn has_left(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// Takes the cost of a count that ended now.
    pub(super) fn spend(&mut self, cost: Duration, now: Instant) {
        let saved = now.checked_sub(Self::SAVED).unwrap_or(now);
        self.until = Some(self.until.map_or(saved, |until| until.max(saved)) + cost * COST_FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::{Backing, Budget, Counted, Estimate, Mapping, Object, count};

    const PAGE: u64 = 4096;
    const GIB: u64 = (1 << 30) / PAGE;

    fn mapping(backing: Backing, pages: u64, references: u64) -> Mapping {
        Mapping { backing, bytes: pages * PAGE, visible: pages, resident: pages, references }
    }

    fn object(id: u64, below: u64, resident: u64) -> Object {
        Object { id, below, resident, name: String::new() }
    }

    fn pages(mappings: &[Mapping], objects: &[Object]) -> u64 {
        let counted = count(mappings, objects, Path::new("/roots/a"), PAGE);
        (counted.mapped + counted.named) / PAGE
    }

    #[test]
    fn what_twenty_processes_share_is_counted_once() {
        let shared = |backing, references| vec![mapping(backing, 2 * GIB, references); 20];
        assert_eq!(pages(&shared(Backing::Anonymous(7), 20), &[object(7, 0, 2 * GIB)]), 2 * GIB);
        for backing in [Backing::SystemV, Backing::Nameless] {
            // The segment or its descriptor is a reference of its own.
            assert!(pages(&shared(backing, 21), &[]).abs_diff(2 * GIB) < 20, "{backing:?}");
            assert!(pages(&shared(backing, 20), &[]) < 3 * GIB, "{backing:?} without its name");
        }
        let copies = Mapping { resident: 0, ..mapping(Backing::CopyOfFile, 100, 20) };
        assert_eq!(pages(&[copies; 20], &[]), 100);
    }

    #[test]
    fn what_each_process_has_for_itself_is_counted_each_time() {
        let (mut mappings, mut objects) = (Vec::new(), Vec::new());
        for id in 1..=20 {
            mappings.push(mapping(Backing::Anonymous(id), 50, 1));
            objects.push(object(id, 0, 50));
        }
        assert_eq!(pages(&mappings, &objects), 1000);
        for backing in [Backing::SystemV, Backing::Nameless] {
            assert_eq!(pages(&[mapping(backing, 50, 2); 20], &[]), 1000, "equal segments are still several");
        }
        assert_eq!(pages(&[mapping(Backing::Other, 50, 1); 20], &[]), 0);
    }

    #[test]
    fn what_a_fork_left_is_shared_and_what_was_changed_since_is_not() {
        let objects: Vec<Object> = (2..=21).map(|id| object(id, 1, 3)).chain([object(1, 0, 500)]).collect();
        let readers: Vec<Mapping> =
            (2..=21).map(|id| Mapping { resident: 0, ..mapping(Backing::Anonymous(id), 500, 1) }).collect();
        assert_eq!(pages(&readers, &objects), 500 + 20 * 3);
        let gone = Mapping { resident: 0, ..mapping(Backing::Anonymous(99), 500, 1) };
        assert_eq!(pages(&[readers[0], gone], &objects), 500 + 3, "a fork that has ended meanwhile");
    }

    #[test]
    fn shared_memory_with_a_name_belongs_to_the_root_below_which_it_is() {
        let named = |name: &str| Object { name: name.to_owned(), ..object(0, 0, 10) };
        let objects = [named("/roots/a/x"), named("/roots/b/x"), named("/roots/ab"), named(super::NAMELESS), named("")];
        assert_eq!(pages(&[], &objects), 10);
    }

    #[test]
    fn segments_that_are_mapped_are_told_by_their_size() {
        let segment = Mapping { resident: 1, ..mapping(Backing::SystemV, 8, 3) };
        let counted = count(&[segment, segment], &[], Path::new("/roots/a"), PAGE);
        assert_eq!(counted, Counted { mapped: 0, named: 0, segments: 8 * PAGE });
    }

    #[test]
    fn a_count_is_made_when_the_sum_says_that_it_may_be_too_much() {
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        assert!(!estimate.is_due(start, 90, 100));
        assert!(estimate.is_due(after(250), 400, 100), "the first time at once");
        estimate.take(60, after(250), after(260));
        assert!(!estimate.is_due(after(500), 400, 100), "nothing has grown");
        assert!(!estimate.is_due(after(1000), 430, 100), "60 and 30 grown are no 100");
        assert!(estimate.is_due(after(1250), 450, 100));
        estimate.take(60, after(1250), after(1251));
        assert!(!estimate.is_due(after(2000), 90, 100), "the sum alone is enough");
        assert!(estimate.is_due(after(2250), 140, 100));
        estimate.take(60, after(2250), after(2251));
        assert!(!estimate.is_due(after(17_000), 140, 100));
        assert!(estimate.is_due(after(17_500), 140, 100), "now and then without any growth");
        estimate.take(90, after(17_500), after(18_500));
        assert!(!estimate.is_due(after(19_000), 200, 100), "it took a second: 50 s, of which 10 were saved");
        assert!(estimate.is_due(after(58_600), 200, 100));
    }

    #[test]
    fn counting_takes_at_most_two_per_cent_of_a_core() {
        let (cost, mut now) = (Duration::from_millis(300), Instant::now());
        let (began, mut spent) = (now, Duration::ZERO);
        let mut estimate = Estimate::default();
        let mut sum = 1_000;
        while now < began + Duration::from_secs(600) {
            sum += 1_000;
            if estimate.is_due(now, sum, 1_500) {
                estimate.take(1_400, now, now + cost);
                spent += cost;
            }
            now += Duration::from_millis(250);
        }
        assert!(spent <= Duration::from_secs(12) + cost, "{spent:?} of 600 s");
    }

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let now = Instant::now() + Duration::from_secs(60);
        let mut budget = Budget::default();
        let mut counts = 0;
        while budget.has_left(now) {
            budget.spend(Duration::from_millis(20), now);
            counts += 1;
        }
        assert_eq!(counts, 11, "200 ms are what ten seconds bring");
        assert!(budget.has_left(now + Duration::from_secs(1)));
    }
}
