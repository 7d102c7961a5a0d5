//! Enforces limits on a container's jail: rctl(4)'s rules and the CPUs and memory domains of its cpuset. The monitor watches the memory ([`super::watch`]).

use std::path::Path;

use super::limits::Limits;
use super::record::{pod_directory, read_limits, state_of};
use super::sys::accounting;
use super::{jails, kernel};
use crate::Error;
use crate::spec::ContainerSpec;

/// The limits of a container, at most those of its pod.
pub(super) fn wanted(directory: &Path, spec: &ContainerSpec) -> Result<Limits, Error> {
    let pod = read_limits(&pod_directory(state_of(directory), &spec.pod))?;
    Ok(read_limits(directory)?.within(&pod))
}

/// Replaces the rules, the CPUs and the memory domains of a jail. Without kern.racct.enable there are no rules, as `needs` reports.
///
/// # Errors
/// Any error of the kernel; [`Error::Invalid`] for CPUs or domains that do not exist.
pub(super) fn apply(jail: &str, jid: i32, limits: &Limits) -> Result<(), Error> {
    if kernel::accounting() {
        jails::remove_rules(jail)?;
        for rule in limits.rules(jail, kernel::bounds()) {
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
    let Some(domains) = &limits.domains else { return Ok(()) };
    // The kernel takes domains that do not exist for all there are (kern_cpuset_setdomain in kern/kern_cpuset.c).
    if domains.iter().any(|domain| *domain >= kernel::domains()) {
        let reason = format!("{domains:?} are not memory domains of this machine");
        return Err(Error::invalid("resources.cpuset_mems", reason));
    }
    accounting::prefer(jid, domains)
        .map_err(Error::failed(format!("cannot confine jail {jail} to memory domains {domains:?}")))
}
