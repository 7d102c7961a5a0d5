//! What containers have written to their roots: it is read beside the calls that give it.

use std::time::{Duration, SystemTime};

use host::fault::Fault;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::*;
use tonic::transport::Channel;

use crate::world::{World, create, made};

/// On a busy machine a reading takes some tenths of a second, and is not renewed for twenty times as long.
const READ_AGAIN_WITHIN: Duration = Duration::from_secs(50);

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
    let (id, before) = server.run(async {
        let (_, id) = made(&mut client, &world, &["forever"]).await;
        let (_, before) = written(&mut client, &id).await;
        (id, before)
    });
    world.faults.arm_next("rootfs usage", Fault::HangBefore);
    assert!(world.faults.wait_until_hung(READ_AGAIN_WITHIN), "nothing reads it without a call");
    std::fs::write(world.root(&id).join("new"), [1; 1 << 20]).unwrap();
    server.run(async {
        let asked = now();
        let (read_at, bytes) = written(&mut client, &id).await;
        assert!(read_at < asked && bytes == before, "the call read it");
        world.faults.resume();
        while written(&mut client, &id).await.1 < before + (1 << 20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
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
    // So long that both containers' readings are due in one pass.
    world.written_period = Duration::from_secs(1);
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
    assert!(world.faults.wait_until_hung(READ_AGAIN_WITHIN));
    world.faults.arm_next("rootfs usage", Fault::HangBefore);
    // The task that began the reading waits for it by now: an aborted task runs on until it waits.
    std::thread::sleep(Duration::from_millis(500));
    let faults = world.faults.clone();
    server.spawn(async move {
        // The stream ends once the server's own tasks are aborted.
        while let Ok(Some(_)) = events.message().await {}
        faults.resume();
    });
    server.stop();
    assert!(!world.faults.disarm(), "another reading was begun");
}
