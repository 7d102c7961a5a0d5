//! The kernel's descriptors for the end of a process.

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;

pub(super) use platform::exit_descriptor;
