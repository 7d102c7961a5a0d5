//! Devfs rulesets: each container has one, with an unused number. The number is in the container's directory before the first
//! rule exists, so that no ruleset is left behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::devices::Rule;
use super::sys::devfs;
use crate::Error;

/// The first and the last number: those below are for /etc/devfs.rules and other programs that make jails.
const FIRST: u16 = 20_000;
const LAST: u16 = 65_000;
/// The file with a container's number, in its directory.
const FILE: &str = "ruleset.json";

/// The number to try first, after the one that was given last: the kernel lists numbers in use one by one, and there is one for
/// each container of the node. Locked while one is taken: two must not find the same number free.
static NEXT: Mutex<u16> = Mutex::new(FIRST);

/// Every ruleset number in use.
pub(super) fn used(devfs: &File) -> io::Result<BTreeSet<u16>> {
    let mut used = BTreeSet::new();
    let mut last = 0;
    while let Some(number) = devfs::next(devfs, last)? {
        if !used.insert(number) {
            break;
        }
        last = number;
    }
    Ok(used)
}

/// The number of free rulesets.
pub(super) fn free() -> io::Result<usize> {
    let used = used(&devfs::open()?)?;
    Ok(usize::from(LAST - FIRST) + 1 - used.range(FIRST..=LAST).count())
}

/// Makes a ruleset for the container with this directory.
///
/// # Errors
/// Any error of the kernel; [`Error::Unavailable`] when no number is free.
pub(super) fn make(directory: &Path, rules: &[Rule]) -> Result<u16, Error> {
    let failed = || "cannot create a devfs ruleset".to_owned();
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let devfs = devfs::open().map_err(Error::failed(failed()))?;
    let is_used = |number: u16| Ok(devfs::next(&devfs, number - 1)? == Some(number));
    let number = first_free(*next, is_used).map_err(Error::failed(failed()))?;
    let number = number.ok_or_else(|| Error::Unavailable {
        operation: failed(),
        source: format!("all numbers from {FIRST} to {LAST} are in use").into(),
    })?;
    *next = if number == LAST { FIRST } else { number + 1 };
    host::json::replace(&directory.join(FILE), &number)?;
    rules.iter().try_for_each(|rule| devfs::add(&devfs, number, rule)).map_err(Error::failed(failed()))?;
    Ok(number)
}

/// The first free number from this one on, and from the first one after the last.
fn first_free(from: u16, mut is_used: impl FnMut(u16) -> io::Result<bool>) -> io::Result<Option<u16>> {
    for number in (from..=LAST).chain(FIRST..from) {
        if !is_used(number)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Removes the ruleset of the container with this directory, once its /dev is unmounted. Idempotent.
///
/// # Errors
/// Any error of the kernel.
pub(super) fn remove(directory: &Path) -> Result<(), Error> {
    let Some(number) = host::json::read::<u16>(&directory.join(FILE))? else { return Ok(()) };
    let removed = devfs::open().and_then(|devfs| devfs::remove(&devfs, number));
    removed.map_err(Error::failed(format!("cannot remove devfs ruleset {number}")))
}

#[cfg(test)]
mod tests {
    use super::{FIRST, LAST, first_free};

    #[test]
    fn a_free_number_is_found_without_a_list() {
        let find = |from, used: &[u16]| {
            let mut asked = 0;
            let found = first_free(from, |number| {
                asked += 1;
                Ok(used.contains(&number))
            });
            (found.unwrap(), asked)
        };
        let full: Vec<u16> = (FIRST..=LAST).collect();
        assert_eq!(find(FIRST + 400, &full[..400]), (Some(FIRST + 400), 1));
        assert_eq!(find(FIRST, &full[..2]), (Some(FIRST + 2), 3));
        assert_eq!(find(LAST, &[LAST]), (Some(FIRST), 2));
        assert_eq!(find(FIRST + 9, &full).0, None);
    }
}
