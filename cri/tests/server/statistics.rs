//! What containers have written to their roots: it is read beside the calls that give it.

use std::time::{Duration, Instant, SystemTime};

use host::fault::Fault;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::*;
use tonic::transport::Channel;

use crate::world::{PATIENCE, World, create, made};

/// As CRI counts, in nanoseconds since 1970.
fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// The time of the reading and the bytes.
async fn written(client: &mut RuntimeServiceClient<Channel>, container_id: &str) -> (i64, u64) {
    let request = ContainerStatsRequest { container_id: container_id.to_owned() };
    let layer = client.container_stats(request).await.unwrap().into_inner().stats.unwrap().writable_layer.unwrap();
    (layer.timestamp, layer.used_bytes.unwrap().value)
}

#[test]
fn written_bytes_are_read_between_the_calls_and_never_again_by_them() {
    let mut world = World::new();
    world.written_period = Duration::from_millis(50);
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (_, id) = made(&mut client, &world, &["forever"]).await;
        let (_, before) = written(&mut client, &id).await;
        std::fs::write(world.root(&id).join("new"), [1; 1 << 20]).unwrap();
        let deadline = Instant::now() + PATIENCE / 2;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let asked = now();
            let (read_at, bytes) = written(&mut client, &id).await;
            assert!(read_at < asked, "the call read it");
            if bytes >= before + (1 << 20) {
                break;
            }
            assert!(Instant::now() < deadline, "nothing reads it");
        }
    });
}

#[test]
fn written_bytes_carry_the_time_of_their_reading_wherever_they_are_told() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let mut images = ImageServiceClient::new(server.channel());
    server.run(async {
        let (pod, first) = made(&mut client, &world, &["forever"]).await;
        let second = create(&world, &pod, "web", "side", &["forever"]);
        let second = client.create_container(second).await.unwrap().into_inner().container_id;
        client.start_container(StartContainerRequest { container_id: first.clone() }).await.unwrap();
        let (oldest, _) = written(&mut client, &first).await;
        assert!(written(&mut client, &second).await.0 > oldest);
        let asked = now();
        let listed = client.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap().into_inner();
        let time_of = |name: &str| {
            let metrics = &listed.pod_metrics[0].container_metrics[0].metrics;
            metrics.iter().find(|metric| metric.name == name).unwrap().timestamp
        };
        assert_eq!(time_of("container_fs_usage_bytes"), oldest);
        assert!(time_of("container_memory_usage_bytes") >= asked && time_of("container_fs_limit_bytes") >= asked);
        let told = images.image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(told.container_filesystems[0].timestamp, oldest);
        assert!(told.image_filesystems[0].timestamp >= asked);
    });
}

#[test]
fn a_server_that_stops_waits_for_the_reading_under_way_and_begins_no_other() {
    let mut world = World::new();
    world.written_period = Duration::from_millis(300);
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let mut events = server.run(async {
        let (pod, _) = made(&mut client, &world, &["forever"]).await;
        client.create_container(create(&world, &pod, "web", "side", &["forever"])).await.unwrap();
        client.list_container_stats(ListContainerStatsRequest::default()).await.unwrap();
        client.get_container_events(GetEventsRequest {}).await.unwrap().into_inner()
    });
    world.faults.arm_next("rootfs usage", Fault::HangBefore);
    assert!(world.faults.wait_until_hung(PATIENCE));
    world.faults.arm_next("rootfs usage", Fault::HangBefore);
    let faults = world.faults.clone();
    server.spawn(async move {
        // The stream ends just before the server's own tasks are aborted.
        while let Ok(Some(_)) = events.message().await {}
        tokio::time::sleep(Duration::from_millis(200)).await;
        faults.resume();
    });
    server.stop();
    assert!(!world.faults.disarm(), "another reading was begun");
}
