//! The one place where the kernel that this program was built for picks its backend.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

#[cfg(target_os = "freebsd")]
use crate::freebsd as backend;
#[cfg(target_os = "linux")]
use crate::linux as backend;
use crate::monitor::{Launch, Target};
use crate::{Error, Runtime, Settings};

/// Opens this kernel's backend.
///
/// # Errors
/// Its state directory cannot be made.
pub fn open(settings: Settings) -> Result<Arc<dyn Runtime>, Error> {
    backend::open(settings)
}

/// How this kernel's backend launches the target of a monitor.
pub(crate) fn prepare_launch(target: Target<'_>) -> Result<Box<dyn Launch>, Error> {
    backend::prepare_launch(target)
}

/// Runs the worker `monitor` where its arguments are one of the backend's own commands; None: they are not.
pub(crate) fn worker(args: &[OsString]) -> Option<ExitCode> {
    backend::worker(args)
}

/// The first and the last real-time signal.
pub(crate) fn realtime_signals() -> (i32, i32) {
    backend::realtime_signals()
}
