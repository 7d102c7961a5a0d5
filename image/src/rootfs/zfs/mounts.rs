//! Mounts datasets and unmounts them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, Nmount, unmount};

use crate::Error;

/// Whether the path is a mount point: it is on another device than its parent.
fn mounted(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    let Some(own) = device(path) else { return false };
    path.parent().is_some_and(|parent| device(parent) != Some(own))
}

/// Mounts a dataset or a snapshot. Idempotent.
pub(super) fn mount(dataset: &str, target: &Path, flags: MntFlags) -> Result<(), Error> {
    let failed = || format!("cannot mount {dataset} at {}", target.display());
    if mounted(target) {
        return Ok(());
    }
    fs::create_dir_all(target).map_err(Error::io(failed()))?;
    let mut options = Nmount::new();
    options.str_opt_owned("fstype", "zfs").str_opt_owned("from", dataset).str_opt_owned("fspath", target);
    options.nmount(flags).map_err(|error| Error::io(failed())(error.error()))
}

/// Unmounts by force, since no process may stay in it, and removes the mount point. Idempotent.
pub(super) fn unmount_and_remove(target: &Path) -> Result<(), Error> {
    if mounted(target) {
        unmount(target, MntFlags::MNT_FORCE).map_err(Error::io(format!("cannot unmount {}", target.display())))?;
    }
    host::fs::remove_empty(target).map_err(Error::io(format!("cannot remove {}", target.display())))
}
