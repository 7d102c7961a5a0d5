//! `cellblock.admin.v1`: the verbs that CRI lacks, one line each, on their own socket in the state directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::admin::admin_server::Admin;
use proto::admin::*;
use tonic::{Request, async_trait};

use crate::rpc;
use crate::server::service::{Answer, answer};
use crate::state::node::Node;

/// Where the service listens.
#[must_use]
pub fn socket(state: &Path) -> PathBuf {
    state.join("admin.sock")
}

pub(crate) struct AdminService(pub(crate) Arc<Node>);

#[async_trait]
impl Admin for AdminService {
    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Answer<SnapshotResponse> {
        answer(rpc::snapshot::call(&self.0, request.into_inner()).await)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        answer(rpc::rollback::call(&self.0, request.into_inner()).await)
    }

    async fn list_snapshots(&self, request: Request<ListSnapshotsRequest>) -> Answer<ListSnapshotsResponse> {
        answer(rpc::list_snapshots::call(&self.0, request.into_inner()).await)
    }
}
