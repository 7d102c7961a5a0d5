//! CRI's two services, one line per RPC: calls its function and turns an error into a status.

use std::sync::Arc;

use proto::v1::image_service_server::ImageService;
use proto::v1::runtime_service_server::RuntimeService;
use proto::v1::*;
use tonic::{Request, Response, Status, async_trait};

use crate::error::Error;
use crate::rpc::{self, Parts};
use crate::state::node::Node;

/// Both services.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Node>);

pub(crate) type Answer<T> = Result<Response<T>, Status>;

pub(crate) fn answer<T>(outcome: Result<T, Error>) -> Answer<T> {
    outcome.map(Response::new).map_err(Status::from)
}

#[async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Parts<StreamPodSandboxesResponse>;
    type StreamContainersStream = Parts<StreamContainersResponse>;
    type StreamContainerStatsStream = Parts<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Parts<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Parts<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Parts<ContainerEventResponse>;

    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(rpc::version::call(request.into_inner()))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        answer(rpc::run_pod_sandbox::call(&self.0, request).await)
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        answer(rpc::stop_pod_sandbox::call(&self.0, request.into_inner()).await)
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        answer(rpc::remove_pod_sandbox::call(&self.0, request.into_inner()).await)
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        answer(rpc::pod_sandbox_status::call(&self.0, &request.into_inner()))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        answer(rpc::list_pod_sandbox::call(&self.0, request.into_inner()))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        answer(rpc::create_container::call(&self.0, request).await)
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        answer(rpc::start_container::call(&self.0, request.into_inner()).await)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        answer(rpc::stop_container::call(&self.0, request.into_inner()).await)
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        answer(rpc::remove_container::call(&self.0, request.into_inner()).await)
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        answer(rpc::list_containers::call(&self.0, request.into_inner()))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        answer(rpc::container_status::call(&self.0, request.into_inner()).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        answer(rpc::update_container_resources::call(&self.0, request.into_inner()).await)
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        answer(rpc::reopen_container_log::call(&self.0, request.into_inner()).await)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        answer(rpc::exec_sync::call(&self.0, request).await)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        answer(rpc::exec::call(&self.0, request.into_inner()))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        answer(rpc::attach::call(&self.0, &request.into_inner()))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        answer(rpc::port_forward::call(&self.0, request.into_inner()))
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        answer(rpc::container_stats::call(&self.0, request.into_inner()).await)
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        answer(rpc::list_container_stats::call(&self.0, request.into_inner()).await)
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        answer(rpc::pod_sandbox_stats::call(&self.0, request.into_inner()).await)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        answer(rpc::list_pod_sandbox_stats::call(&self.0, request.into_inner()).await)
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        answer(rpc::update_runtime_config::call(&self.0, request.into_inner()).await)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        answer(rpc::status::call(&self.0, request.into_inner()).await)
    }

    async fn checkpoint_container(
        &self,
        _request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        answer(rpc::unsupported("CheckpointContainer"))
    }

    async fn checkpoint_pod(&self, _request: Request<CheckpointPodRequest>) -> Answer<CheckpointPodResponse> {
        answer(rpc::unsupported("CheckpointPod"))
    }

    async fn restore_pod(&self, _request: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        answer(rpc::unsupported("RestorePod"))
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        answer(rpc::list_metric_descriptors::call(request.into_inner()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        answer(rpc::list_pod_sandbox_metrics::call(&self.0, request.into_inner()).await)
    }

    async fn runtime_config(&self, request: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        answer(rpc::runtime_config::call(request.into_inner()))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        answer(rpc::update_pod_sandbox_resources::call(&self.0, request.into_inner()).await)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        answer(Ok(rpc::stream_pod_sandboxes::call(&self.0, request.into_inner())))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        answer(Ok(rpc::stream_containers::call(&self.0, request.into_inner())))
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        answer(Ok(rpc::stream_container_stats::call(&self.0, request.into_inner()).await))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        answer(Ok(rpc::stream_pod_sandbox_stats::call(&self.0, request.into_inner()).await))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        answer(Ok(rpc::stream_pod_sandbox_metrics::call(&self.0).await))
    }

    async fn get_container_events(
        &self,
        _request: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        answer(rpc::get_container_events::call(&self.0))
    }
}

#[async_trait]
impl ImageService for Service {
    type StreamImagesStream = Parts<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        answer(rpc::list_images::call(&self.0, request.into_inner()))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        answer(rpc::image_status::call(&self.0, request.into_inner()).await)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        answer(rpc::pull_image::call(&self.0, request).await)
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        answer(rpc::remove_image::call(&self.0, request.into_inner()).await)
    }

    async fn image_fs_info(&self, request: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        answer(rpc::image_fs_info::call(&self.0, request.into_inner()).await)
    }

    async fn pull_security_profile(
        &self,
        _request: Request<PullSecurityProfileRequest>,
    ) -> Answer<PullSecurityProfileResponse> {
        answer(rpc::unsupported("PullSecurityProfile"))
    }

    async fn list_security_profiles(
        &self,
        _request: Request<ListSecurityProfilesRequest>,
    ) -> Answer<ListSecurityProfilesResponse> {
        answer(rpc::unsupported("ListSecurityProfiles"))
    }

    async fn remove_security_profile(
        &self,
        _request: Request<RemoveSecurityProfileRequest>,
    ) -> Answer<RemoveSecurityProfileResponse> {
        answer(rpc::unsupported("RemoveSecurityProfile"))
    }

    async fn stream_images(&self, request: Request<StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        answer(rpc::stream_images::call(&self.0, request.into_inner()))
    }
}
