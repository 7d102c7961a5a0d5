//! Devfs rulesets: each container has one, with an unused number. The number is in the container's directory before the first
//! rule exists, so that no ruleset is left behind.

use std::collections::BTreeSet;
use std::fs::File;
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

/// One at a time: two must not find the same number free.
static TURN: Mutex<()> = Mutex::new(());

/// Every ruleset number in use.
pub(super) fn used(devfs: &File) -> std::io::Result<BTreeSet<u16>> {
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
pub(super) fn free() -> std::io::Result<usize> {
    let used = used(&devfs::open()?)?;
    Ok(usize::from(LAST - FIRST) + 1 - used.range(FIRST..=LAST).count())
}

/// Makes a ruleset for the container with this directory.
///
/// # Errors
/// Any error of the kernel; [`Error::Unavailable`] when no number is free.
pub(super) fn make(directory: &Path, rules: &[Rule]) -> Result<u16, Error> {
    let failed = || "cannot create a devfs ruleset".to_owned();
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let devfs = devfs::open().map_err(Error::failed(failed()))?;
    let used = used(&devfs).map_err(Error::failed(failed()))?;
    let number = (FIRST..=LAST).find(|number| !used.contains(number));
    let number = number.ok_or_else(|| Error::Unavailable {
        operation: failed(),
        source: format!("all numbers from {FIRST} to {LAST} are in use").into(),
    })?;
    host::json::replace(&directory.join(FILE), &number)?;
    rules.iter().try_for_each(|rule| devfs::add(&devfs, number, rule)).map_err(Error::failed(failed()))?;
    Ok(number)
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
