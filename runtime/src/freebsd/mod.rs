//! The FreeBSD backend: a pod is a persistent jail with a network stack of its own and no process in it, a container a child
//! jail. The kernel is driven directly (`sys`); what is decided about parameters, rights, limits, devices and mounts is pure,
//! and tested on any system.

mod devices;
mod facts;
mod limits;
mod names;
mod params;
mod patches;
mod plan;
mod refuse;
mod resolve;
mod rights;
mod sysctls;

#[cfg(target_os = "freebsd")]
mod backend;
#[cfg(target_os = "freebsd")]
mod child;
#[cfg(target_os = "freebsd")]
mod container;
#[cfg(target_os = "freebsd")]
mod enforce;
#[cfg(target_os = "freebsd")]
mod inside;
#[cfg(target_os = "freebsd")]
mod inventory;
#[cfg(target_os = "freebsd")]
mod jails;
#[cfg(target_os = "freebsd")]
mod kernel;
#[cfg(target_os = "freebsd")]
mod launch;
#[cfg(target_os = "freebsd")]
mod mounts;
#[cfg(target_os = "freebsd")]
mod needs;
#[cfg(target_os = "freebsd")]
mod pod;
#[cfg(target_os = "freebsd")]
mod rulesets;
#[cfg(target_os = "freebsd")]
mod sys;
#[cfg(target_os = "freebsd")]
mod usage;

#[cfg(target_os = "freebsd")]
pub(crate) use backend::{launch, open, realtime_signals, worker};

use crate::Error;

/// What errors and Status call this backend.
const NAME: &str = "freebsd";

/// The steps of a removal, which are all tried: the last error is kept.
#[derive(Debug, Default)]
struct Tried(Option<Error>);

impl Tried {
    fn keep(&mut self, step: Result<(), Error>) {
        if let Err(error) = step {
            self.0 = Some(error);
        }
    }

    fn all_done(&self) -> bool {
        self.0.is_none()
    }

    fn result(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), Err)
    }
}
