//! Jails by name: finds, lists and removes them, with their processes.

use std::io;
use std::time::{Duration, Instant};

use host::Failures;

use super::params;
use super::sys::{accounting, jail, process};
use crate::Error;

/// The limit for the end of killed processes.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The first interval between looks at them: NOTE_EXIT of kqueue(2) would come before they have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The numbers and names of all jails but dying ones.
pub(super) fn list() -> Result<Vec<(i32, String)>, Error> {
    jail::all().map_err(Error::failed("cannot list the jails"))
}

/// The jail with a name; None: there is none.
pub(super) fn find(name: &str) -> Result<Option<jail::Jail>, Error> {
    jail::find(name).map_err(Error::failed(format!("cannot find jail {name}")))
}

/// Whether jails are in the jail with a name, dying ones included.
pub(super) fn has_children(name: &str) -> Result<bool, Error> {
    let count = jail::children(name).map_err(Error::failed(format!("cannot count the jails in jail {name}")))?;
    Ok(count.is_some_and(|count| count > 0))
}

/// Removes a jail with its processes, and returns when none runs. Idempotent.
///
/// # Errors
/// A process that does not die.
pub(super) fn end(name: &str) -> Result<(), Error> {
    let Some(found) = find(name)? else { return Ok(()) };
    end_found(&found, name)
}

/// Removes a jail that was found.
pub(super) fn end_found(found: &jail::Jail, name: &str) -> Result<(), Error> {
    let failed = || format!("cannot remove jail {name}");
    // A jail that somebody else removes now (jail_set(2): ENOENT, or EINVAL while it is dying) needs no change; and after any
    // error the jail must still go.
    let mut failures = Failures::<Error>::default();
    match jail::update(found.jid, &params::own_ipc()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
        taken => {
            let failed = Error::failed(format!("cannot take the System V objects of jail {name} away"));
            failures.keep(taken.map_err(failed));
        }
    }
    failures.keep(found.remove().and_then(|()| wait_until_dead(found.jid)).map_err(Error::failed(failed())));
    failures.result(Error::failed(failed()))
}

/// Returns when every process of a removed jail is gone or a zombie.
fn wait_until_dead(jid: i32) -> io::Result<()> {
    let deadline = Instant::now() + KILL_WAIT;
    let mut pause = POLL_INTERVAL;
    while process::all()?.iter().any(|one| one.jid == jid && !one.zombie) {
        if Instant::now() >= deadline {
            return Err(io::Error::other("a process in it does not die"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(KILL_WAIT / 100);
    }
    Ok(())
}

/// Removes the rules of a jail's name, which outlive the jail in the kernel. There are none without accounting.
pub(super) fn remove_rules(name: &str) -> Result<(), Error> {
    match accounting::remove_rules(&format!("jail:{name}")) {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
            Err(Error::failed(format!("cannot remove the rctl rules of jail {name}"))(error))
        }
        _ => Ok(()),
    }
}
