//! `cellblock snapshot|rollback|snapshots CONTAINER`: clients of the running server's admin service.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use proto::admin::admin_client::AdminClient;
use proto::admin::{ListSnapshotsRequest, RollbackRequest, SnapshotRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::server::admin;

/// Snapshots a container's root.
///
/// # Errors
/// No server answers, or the server's refusal.
pub fn take(state: &Path, container: &str, name: &str) -> anyhow::Result<()> {
    let request = SnapshotRequest { container_id: container.to_owned(), name: name.to_owned() };
    call(state, async |mut client| client.snapshot(request).await).map(drop)
}

/// Resets a container's root to a snapshot. The container must not run.
///
/// # Errors
/// As [`take`].
pub fn roll_back(state: &Path, container: &str, name: &str) -> anyhow::Result<()> {
    let request = RollbackRequest { container_id: container.to_owned(), name: name.to_owned() };
    call(state, async |mut client| client.rollback(request).await).map(drop)
}

/// Lists a container's snapshots, oldest first.
///
/// # Errors
/// As [`take`].
pub fn list(state: &Path, container: &str) -> anyhow::Result<Vec<String>> {
    let request = ListSnapshotsRequest { container_id: container.to_owned() };
    Ok(call(state, async |mut client| client.list_snapshots(request).await)?.names)
}

/// Calls the server that has this state directory.
fn call<T>(
    state: &Path,
    method: impl AsyncFnOnce(AdminClient<Channel>) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    let socket = admin::socket(state);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await;
        let channel = channel.with_context(|| format!("no server answers on {}", socket.display()))?;
        match method(AdminClient::new(channel)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(anyhow!("{}", status.message())),
        }
    })
}
