//! What FreeBSD takes for a pod's parts without a server.

use std::path::Path;

use anyhow::Result;

use super::timed;
use crate::process::{Program, processor_time};
use crate::tools::Tools;

/// What is timed.
pub(super) const CALLS: [&str; 3] = ["jail -c, alone", "jexec, alone", "jail -c vnet, alone"];
/// The jail that is made and removed.
const NAME: &str = "cellblock-bench";

/// jail(8) and jexec(8).
pub(super) struct Bare;

impl Bare {
    /// It needs nothing.
    pub(super) fn make(_: Option<&Tools>, _: &Path) -> Result<Option<Self>> {
        Ok(Some(Self))
    }

    /// What a server cannot do without: a jail, a command in it, and one with a network stack of its own.
    pub(super) fn round(&self) -> Result<[f64; CALLS.len()]> {
        let name = format!("name={NAME}");
        let create = |more: &[&str]| {
            let words = [&["-c", name.as_str(), "path=/", "persist"], more].concat();
            timed(|| Program::new("jail", words).run())
        };
        let remove = || Program::new("jail", ["-r", NAME]).run();
        let (_, plain) = create(&[])?;
        let exec = timed(|| Program::new("jexec", [NAME, "true"]).run());
        remove()?;
        let (_, vnet) = create(&["vnet"])?;
        remove()?;
        Ok([plain, exec?.1, vnet])
    }
}

/// The user and system time of a process, in seconds.
pub(super) fn cpu_time(pid: u32) -> Result<f64> {
    processor_time(&Program::new("ps", ["-o", "time=", "-p", &pid.to_string()]).run()?)
}
