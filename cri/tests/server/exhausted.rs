//! What happens when something is used up: addresses, host ports, the disk of the records, the room in one message. A clear
//! error, nothing half made, what is there goes on, and once there is room again it works again.

use cri::MESSAGE_LIMIT;
use proto::v1::*;
use tonic::{Code, Status};

use crate::small_disk::SmallDisk;
use crate::world::{World, run_pod};

type Client = runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

async fn run(client: &mut Client, request: RunPodSandboxRequest) -> Result<String, Status> {
    client.run_pod_sandbox(request).await.map(|answer| answer.into_inner().pod_sandbox_id)
}

async fn remove(client: &mut Client, id: &str) {
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.unwrap();
}

async fn ready(client: &mut Client) -> usize {
    let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    pods.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).count()
}

#[test]
fn a_node_without_a_free_address_names_its_network_and_takes_the_pod_later() {
    let mut world = World::new();
    world.networks = vec!["10.20.0.0/29", "fd00:20::/64"];
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        let mut pods = Vec::new();
        for number in 0..5 {
            pods.push(run(&mut client, run_pod(&format!("pod{number}"))).await.unwrap());
        }
        let before = world.leftovers();
        let status = run(&mut client, run_pod("late")).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "no IPv4 address is left in 10.20.0.0/29: 5 are taken");
        assert_eq!((world.leftovers(), ready(&mut client).await), (before, 5));
        remove(&mut client, &pods[2]).await;
        run(&mut client, run_pod("late")).await.unwrap();
    });
}

#[test]
fn a_host_port_that_another_pod_has_is_named_with_that_pod_and_can_be_had_later() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    let with_port = |name: &str| {
        let mut request = run_pod(name);
        let port = PortMapping { container_port: 80, host_port: 8080, ..PortMapping::default() };
        request.config.as_mut().unwrap().port_mappings = vec![port];
        request
    };
    server.run(async {
        let first = run(&mut client, with_port("first")).await.unwrap();
        let before = world.leftovers();
        let status = run(&mut client, with_port("second")).await.unwrap_err();
        assert!(status.message().contains("tcp 8080") && status.message().contains(&first), "{status}");
        assert_eq!((world.leftovers(), ready(&mut client).await), (before, 1));
        remove(&mut client, &first).await;
        run(&mut client, with_port("second")).await.unwrap();
    });
}

#[test]
fn a_full_disk_of_the_records_refuses_changes_and_loses_none() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.records().parent().unwrap(), 6) else { return };
    let server = world.start();
    let mut client = server.client();
    // Records so large that the file must grow for them.
    let large = |name: &str| {
        let mut request = run_pod(name);
        let annotations = &mut request.config.as_mut().unwrap().annotations;
        annotations.insert("large".to_owned(), "x".repeat(200_000));
        request
    };
    let made = server.run(async {
        let mut pods = Vec::new();
        for name in ["first", "second", "third"] {
            pods.push(run(&mut client, large(name)).await.unwrap());
        }
        let filler = disk.fill().unwrap();
        let (refused, status) = loop {
            let request = large(&format!("pod{}", pods.len()));
            match run(&mut client, request.clone()).await {
                Ok(id) => pods.push(id),
                Err(status) => break (request, status),
            }
            assert!(pods.len() < 100, "the disk is full");
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let said = status.message().contains("records.redb") && status.message().contains("No space left");
        assert!(said, "{status}");
        assert_eq!((ready(&mut client).await, world.leftovers().len()), (pods.len(), 2 * pods.len()));
        // What gives room back is done all the same.
        let (stopped, removed) = (pods.swap_remove(0), pods.swap_remove(0));
        client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: stopped.clone() }).await.unwrap();
        remove(&mut client, &removed).await;
        assert_eq!((ready(&mut client).await, world.leftovers().len()), (pods.len(), 2 * pods.len()));
        std::fs::remove_file(filler).unwrap();
        remove(&mut client, &stopped).await;
        pods.push(run(&mut client, refused).await.unwrap());
        assert!(world.records().with_extension("reserve").exists(), "room is kept back again");
        pods
    });
    server.kill();
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        assert_eq!(ready(&mut client).await, made.len(), "what was answered is on disk");
        for pod in &made {
            remove(&mut client, pod).await;
        }
    });
    server.stop();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_list_that_is_too_large_for_a_message_says_so_and_comes_in_parts() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    let size = 900_000;
    let wanted = MESSAGE_LIMIT / size + 1;
    let large = |number: usize| {
        let mut request = run_pod(&format!("pod{number}"));
        request.config.as_mut().unwrap().annotations.insert("large".to_owned(), "x".repeat(size));
        request
    };
    let pods: Vec<_> = (0..wanted).map(|number| server.run(run(&mut client, large(number))).unwrap()).collect();
    server.run(async {
        let status = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("StreamPodSandboxes"), "{status}");
        let filter = PodSandboxFilter { id: pods[0].clone(), ..PodSandboxFilter::default() };
        let one = client.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await.unwrap().into_inner();
        assert_eq!(one.items.len(), 1);
        let mut parts = client.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await.unwrap().into_inner();
        let (mut pods, mut messages) = (0, 0);
        while let Some(part) = parts.message().await.unwrap() {
            pods += part.pod_sandboxes.len();
            messages += 1;
        }
        assert_eq!((pods, messages > 1), (wanted, true));
    });
}

#[test]
fn a_request_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client().max_encoding_message_size(2 * MESSAGE_LIMIT);
    server.run(async {
        let mut request = run_pod("web");
        request.config.as_mut().unwrap().log_directory = "x".repeat(MESSAGE_LIMIT + 1);
        let status = run(&mut client, request).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
        let mut request = run_pod("web");
        request.config.as_mut().unwrap().annotations.insert("k".to_owned(), "x".repeat(2 << 20));
        let status = run(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("annotations: have "), "{status}");
        run(&mut client, run_pod("web")).await.unwrap();
    });
}
