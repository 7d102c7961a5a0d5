//! `cellblock snapshot|rollback|snapshots CONTAINER`: what a container's root was at a time, kept by the file system (ZFS). A
//! container is named by its id or the beginning of it.

use anyhow::{Context as _, bail};
use host::ContainerId;
use image::rootfs::Rootfs;
use runtime::{ContainerState, Error, Runtime};

use crate::config::Config;
use crate::serve;

/// Keeps the root of a container as it is now, under a name.
///
/// # Errors
/// No such container, a name that is there already, a file system that keeps no snapshots.
pub fn take(config: &Config, container: &str, name: &str) -> anyhow::Result<()> {
    let (_, _, rootfs) = serve::boundaries(config)?;
    let id = find(rootfs.as_ref(), container)?;
    Ok(rootfs.snapshot(&id, name)?)
}

/// Puts the root of a container back to what it was under a name; the container must not run.
///
/// # Errors
/// As [`take`], and a container that runs.
pub fn roll_back(config: &Config, container: &str, name: &str) -> anyhow::Result<()> {
    let (runtime, _, rootfs) = serve::boundaries(config)?;
    let id = find(rootfs.as_ref(), container)?;
    refuse_running(runtime.as_ref(), &id)?;
    Ok(rootfs.rollback(&id, name)?)
}

/// The names of a container's snapshots, the oldest first.
///
/// # Errors
/// As [`take`].
pub fn list(config: &Config, container: &str) -> anyhow::Result<Vec<String>> {
    let (_, _, rootfs) = serve::boundaries(config)?;
    let id = find(rootfs.as_ref(), container)?;
    Ok(rootfs.snapshots(&id)?)
}

fn find(rootfs: &dyn Rootfs, wanted: &str) -> anyhow::Result<ContainerId> {
    let (_, containers) = rootfs.inventory().context("cannot list the containers")?;
    let mut found = containers.into_iter().filter(|id| !wanted.is_empty() && id.as_str().starts_with(wanted));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => bail!("container {wanted:?} not found"),
        (Some(_), Some(_)) => bail!("container {wanted:?} is not the beginning of one id only"),
    }
}

fn refuse_running(runtime: &dyn Runtime, id: &ContainerId) -> anyhow::Result<()> {
    match runtime.container_state(id) {
        Ok(ContainerState::Running(_)) => bail!("container {id} is running: stop it first"),
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
