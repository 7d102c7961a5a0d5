//! The FreeBSD backend: a pod is a persistent jail with its own network stack and without processes, a container a child jail.
//! The kernel is driven directly (`sys`); decisions about parameters, rights, limits, devices and mounts are pure, and tested
//! on any system.

mod devices;
mod limits;
mod memory;
mod mount_plan;
mod names;
mod params;
mod patches;
mod rc_conf;
mod record;
mod refuse;
mod requested;
mod rights;
mod sysctls;
mod userland;

#[cfg(target_os = "freebsd")]
mod backend;
#[cfg(target_os = "freebsd")]
mod child;
#[cfg(target_os = "freebsd")]
mod container;
#[cfg(target_os = "freebsd")]
mod enforce;
#[cfg(target_os = "freebsd")]
mod filter;
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
mod recount;
#[cfg(target_os = "freebsd")]
mod rulesets;
#[cfg(target_os = "freebsd")]
mod sys;
#[cfg(target_os = "freebsd")]
mod usage;
#[cfg(target_os = "freebsd")]
mod watch;

#[cfg(target_os = "freebsd")]
pub(crate) use backend::{open, prepare_launch, realtime_signals, worker};
#[cfg(test)]
pub(crate) use mount_plan::example;

/// The backend's name in errors and Status.
const NAME: &str = "freebsd";
