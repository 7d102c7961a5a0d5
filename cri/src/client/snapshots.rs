//! `cellblock snapshot|rollback|snapshots CONTAINER`: clients of the running server's admin service.

use std::path::Path;

use proto::admin::{ListSnapshotsRequest, RollbackRequest, SnapshotRequest};

use super::{answer, block_on, connect_admin};

/// Snapshots a container's root.
///
/// # Errors
/// No server answers, or the server's refusal.
pub fn take(state: &Path, container: &str, name: &str) -> anyhow::Result<()> {
    let request = SnapshotRequest { container_id: container.to_owned(), name: name.to_owned() };
    block_on(async { answer(connect_admin(state).await?.snapshot(request).await).map(drop) })
}

/// Resets a container's root to a snapshot. The container must not run.
///
/// # Errors
/// As [`take`].
pub fn roll_back(state: &Path, container: &str, name: &str) -> anyhow::Result<()> {
    let request = RollbackRequest { container_id: container.to_owned(), name: name.to_owned() };
    block_on(async { answer(connect_admin(state).await?.rollback(request).await).map(drop) })
}

/// Lists a container's snapshots, oldest first.
///
/// # Errors
/// As [`take`].
pub fn list(state: &Path, container: &str) -> anyhow::Result<Vec<String>> {
    let request = ListSnapshotsRequest { container_id: container.to_owned() };
    block_on(async { Ok(answer(connect_admin(state).await?.list_snapshots(request).await)?.names) })
}
