//! Network namespaces of Linux.

use std::fs::File;

use anyhow::Result;
use nix::sched::{CloneFlags, setns};

/// Takes the calling thread into a network namespace.
pub(super) fn enter(namespace: File) -> Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}
