//! `cellblock.admin.v1`: the verbs that CRI lacks, one line each, on their own socket in the state directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::admin::admin_server::Admin;
use proto::admin::*;
use tonic::{Request, Streaming, async_trait};

use crate::rpc::{self, Parts};
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
    type PullWithProgressStream = Parts<PullWithProgressResponse>;
    type ExportImagesStream = Parts<ExportImagesResponse>;
    type ExportRootStream = Parts<ExportRootResponse>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Answer<SnapshotResponse> {
        answer(rpc::snapshot::call(&self.0, request.into_inner()).await)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        answer(rpc::rollback::call(&self.0, request.into_inner()).await)
    }

    async fn list_snapshots(&self, request: Request<ListSnapshotsRequest>) -> Answer<ListSnapshotsResponse> {
        answer(rpc::list_snapshots::call(&self.0, request.into_inner()).await)
    }

    async fn export_root(&self, request: Request<ExportRootRequest>) -> Answer<Self::ExportRootStream> {
        answer(rpc::export_root::call(&self.0, request.into_inner()).await)
    }

    async fn import_root(&self, request: Request<Streaming<ImportRootRequest>>) -> Answer<ImportRootResponse> {
        answer(rpc::import_root::call(&self.0, request).await)
    }

    async fn list_kernel_objects(
        &self,
        _request: Request<ListKernelObjectsRequest>,
    ) -> Answer<ListKernelObjectsResponse> {
        answer(rpc::list_kernel_objects::call(&self.0).await)
    }

    async fn find_root(&self, request: Request<FindRootRequest>) -> Answer<FindRootResponse> {
        answer(rpc::find_root::call(&self.0, &request.into_inner()).await)
    }

    async fn pull_with_progress(
        &self,
        request: Request<PullWithProgressRequest>,
    ) -> Answer<Self::PullWithProgressStream> {
        answer(rpc::pull_with_progress::call(&self.0, request.into_inner()))
    }

    async fn import_images(&self, request: Request<Streaming<ImportImagesRequest>>) -> Answer<ImportImagesResponse> {
        answer(rpc::import_images::call(&self.0, request).await)
    }

    async fn export_images(&self, request: Request<ExportImagesRequest>) -> Answer<Self::ExportImagesStream> {
        answer(rpc::export_images::call(&self.0, request.into_inner()))
    }

    async fn prune_images(&self, request: Request<PruneImagesRequest>) -> Answer<PruneImagesResponse> {
        answer(rpc::prune_images::call(&self.0, request.into_inner()).await)
    }
}
