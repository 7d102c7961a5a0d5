//! Jails by their names: found, listed, and ended with everything that runs in them.

use std::io;
use std::time::{Duration, Instant};

use host::Failures;

use super::params;
use super::sys::{accounting, jail, process};
use crate::Error;

/// How long processes that were sent KILL may take to die.
const DEATH: Duration = Duration::from_secs(10);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// Every jail that is not dying: number and name.
pub(super) fn list() -> Result<Vec<(i32, String)>, Error> {
    let mut all = Vec::new();
    let mut last = 0;
    while let Some((jid, name)) = jail::next(last).map_err(Error::failed("cannot list the jails"))? {
        last = jid;
        all.push((jid, name));
    }
    Ok(all)
}

/// The jail with a name; None: there is none.
pub(super) fn find(name: &str) -> Result<Option<jail::Jail>, Error> {
    jail::find(name).map_err(Error::failed(format!("cannot find jail {name}")))
}

/// Removes a jail with everything that runs in it, and returns when nothing runs. Missing: done already.
///
/// # Errors
/// A process that does not die.
pub(super) fn end(name: &str) -> Result<(), Error> {
    let Some(found) = find(name)? else { return Ok(()) };
    end_found(&found, name)
}

/// The same for a jail that was found.
pub(super) fn end_found(found: &jail::Jail, name: &str) -> Result<(), Error> {
    let failed = || format!("cannot remove jail {name}");
    // Of one that goes at this moment by another hand (jail_set(2): ENOENT, or EINVAL while it is dying) nothing is to be taken;
    // and whatever the kernel says, the jail must go.
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

/// Returns when no process of a jail that was removed is left but as a zombie.
fn wait_until_dead(jid: i32) -> io::Result<()> {
    let deadline = Instant::now() + DEATH;
    let mut pause = LOOK;
    while process::all()?.iter().any(|one| one.jid == jid && !one.zombie) {
        if Instant::now() >= deadline {
            return Err(io::Error::other("a process in it does not die"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(DEATH / 100);
    }
    Ok(())
}

/// Removes the rules on a jail's name, which the kernel keeps when the jail goes. Accounting off: there are none.
pub(super) fn remove_rules(name: &str) -> Result<(), Error> {
    match accounting::remove_rules(&format!("jail:{name}")) {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
            Err(Error::failed(format!("cannot remove the rctl rules of jail {name}"))(error))
        }
        _ => Ok(()),
    }
}
