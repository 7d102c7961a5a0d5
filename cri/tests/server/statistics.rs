//! What containers have written to their roots: it is read beside the calls that give it.

use std::time::{Duration, Instant, SystemTime};

use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::*;
use tonic::transport::Channel;

use crate::world::{PATIENCE, World, made};

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
