//! A client that was generated from somebody else's description of CRI (`k8s-cri`, Kubernetes 1.30) reads our answers.

use k8s_cri::v1 as theirs;
use theirs::runtime_service_client::RuntimeServiceClient;

use crate::world::World;

#[test]
fn an_independent_client_drives_a_pod() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = RuntimeServiceClient::new(server.channel());
    server.run(async {
        let metadata = Some(theirs::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        });
        let config = theirs::PodSandboxConfig { metadata, ..Default::default() };
        let request = theirs::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let pod_sandbox_id = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        let request = theirs::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(theirs::ContainerConfig {
                metadata: Some(theirs::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
                image: Some(theirs::ImageSpec { image: world.image.clone(), ..Default::default() }),
                ..Default::default()
            }),
            sandbox_config: Some(config),
        };
        let container_id = client.create_container(request).await.unwrap().into_inner().container_id;
        client.start_container(theirs::StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
        let request = theirs::ContainerStatusRequest { container_id: container_id.clone(), verbose: true };
        let status = client.container_status(request).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.state(), theirs::ContainerState::ContainerRunning);
        assert_eq!(status.metadata.unwrap().name, "main");
        let request = theirs::PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.clone(), verbose: true };
        let answer = client.pod_sandbox_status(request).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().network.unwrap().ip, "10.20.0.2");
        let stats = client.list_pod_sandbox_stats(theirs::ListPodSandboxStatsRequest::default()).await.unwrap();
        assert_eq!(stats.into_inner().stats[0].attributes.as_ref().unwrap().id, pod_sandbox_id);
        let events = client.get_container_events(theirs::GetEventsRequest {}).await.unwrap();
        drop(events);
        client.remove_pod_sandbox(theirs::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    });
    assert_eq!(world.leftovers(), Vec::<String>::new());
}
