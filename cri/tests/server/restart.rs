//! What a new server finds of the one before it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use cri::Config;
use host::fault::Fault;
use proto::v1::*;

use crate::lifecycle::exited;
use crate::world::{PATIENCE, World, create, run_pod};

type Client = runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

async fn start_one(client: &mut Client, world: &World, pod: &str, name: &str) -> String {
    let request = create(world, pod, "web", name, &["forever"]);
    let id = client.create_container(request).await.unwrap().into_inner().container_id;
    client.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();
    id
}

async fn pod_status(client: &mut Client, id: &str) -> PodSandboxStatus {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
}

#[test]
fn containers_run_on_and_what_ended_meanwhile_is_known() {
    for by_force in [false, true] {
        let world = World::new();
        let server = world.start();
        server.pull(&world);
        let mut client = server.client();
        let (pod, runs, ends, before) = server.run(async {
            let pod = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
            let runs = start_one(&mut client, &world, &pod, "runs").await;
            let ends = start_one(&mut client, &world, &pod, "ends").await;
            let before = pod_status(&mut client, &pod).await;
            (pod, runs, ends, before)
        });
        if by_force {
            server.kill()
        } else {
            server.stop()
        }
        world.kernel.finish(&ends.parse().unwrap(), 42, false);
        let server = world.start();
        let mut client = server.client();
        server.run(async {
            assert_eq!(pod_status(&mut client, &pod).await, before);
            let status = exited(&mut client, &ends).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
            let list = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
            let still = list.iter().find(|one| one.id == runs).unwrap();
            assert_eq!(still.state(), ContainerState::ContainerRunning);
            // Its end is seen by the new server, and its name is still its own.
            world.kernel.finish(&runs.parse().unwrap(), 0, false);
            assert_eq!(exited(&mut client, &runs).await.reason, "Completed");
            assert!(client.run_pod_sandbox(run_pod("web")).await.is_err());
            let other = client.run_pod_sandbox(run_pod("other")).await.unwrap().into_inner().pod_sandbox_id;
            let other = pod_status(&mut client, &other).await.network.unwrap();
            assert_ne!(other.ip, before.network.as_ref().unwrap().ip);
        });
    }
}

#[test]
fn after_a_reboot_pods_are_not_ready_and_can_be_removed() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let (pod, container) = server.run(async {
        let pod = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let container = start_one(&mut client, &world, &pod, "main").await;
        (pod, container)
    });
    server.kill();
    world.reboot();
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        assert_eq!(pod_status(&mut client, &pod).await.state(), PodSandboxState::SandboxNotready);
        let status = exited(&mut client, &container).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
        let info = client.pod_sandbox_status(request).await.unwrap().into_inner().info;
        assert!(info["info"].contains("rebooted"), "{info:?}");
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
        client.run_pod_sandbox(run_pod("web")).await.unwrap();
    });
}

/// Waits until a pod is not ready.
async fn not_ready(client: &mut Client, id: &str) -> PodSandboxStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = pod_status(client, id).await;
        if status.state() == PodSandboxState::SandboxNotready {
            return status;
        }
        assert!(Instant::now() < deadline, "it stays ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_pod_that_the_kernel_loses_is_not_ready_and_makes_room_for_another() {
    for down in [false, true] {
        let world = World::new();
        let server = world.start();
        server.pull(&world);
        let mut client = server.client();
        let (pod, container, other) = server.run(async {
            let pod = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
            let container = start_one(&mut client, &world, &pod, "main").await;
            let other = client.run_pod_sandbox(run_pod("other")).await.unwrap().into_inner().pod_sandbox_id;
            (pod, container, other)
        });
        let mut events = server.run(client.get_container_events(GetEventsRequest {})).unwrap().into_inner();
        let server = if down {
            server.kill();
            world.kernel.lose(&pod.parse().unwrap());
            world.start()
        } else {
            world.kernel.lose(&pod.parse().unwrap());
            server
        };
        let mut client = server.client();
        server.run(async {
            let status = not_ready(&mut client, &pod).await;
            assert_eq!(status.network.unwrap().ip, "");
            assert_eq!(exited(&mut client, &container).await.exit_code, 137);
            let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
            let info = client.pod_sandbox_status(request).await.unwrap().into_inner().info;
            assert!(info["info"].contains("somebody removed"), "{info:?}");
            assert_eq!(pod_status(&mut client, &other).await.state(), PodSandboxState::SandboxReady);
            if !down {
                let mut told = String::new();
                while told != pod {
                    let event = events.message().await.unwrap().unwrap();
                    assert_eq!(event.container_event_type(), ContainerEventType::ContainerStoppedEvent);
                    told = event.container_id;
                }
            }
            let mut again = run_pod("web");
            again.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = 1;
            client.run_pod_sandbox(again).await.unwrap();
            client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
            client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
        });
        assert_eq!(world.leftovers().len(), 4, "two pods and their networks");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_kept_with_all_that_belongs_to_it() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    let pod = server.run(client.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
    server.stop();
    let newer = br#"{"version": 3, "record": {"anything": "else"}}"#;
    write_record(&world, &pod, newer);
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        let status = client.status(StatusRequest { verbose: true }).await.unwrap().into_inner();
        let unreadable = &status.info["cellblock"];
        assert!(unreadable.contains(&pod) && unreadable.contains("newer server"), "{unreadable}");
        let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        assert_eq!(pods, []);
    });
    assert_eq!(world.leftovers().len(), 2, "its pod and its network are still there");
    server.stop();
    assert_eq!(read_record(&world, &pod).as_deref(), Some(&newer[..]));
}

const PODS: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("pods");

fn write_record(world: &World, key: &str, value: &[u8]) {
    let database = redb::Database::open(world.records()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(PODS).unwrap().insert(key, value).unwrap();
    transaction.commit().unwrap();
}

fn read_record(world: &World, key: &str) -> Option<Vec<u8>> {
    use redb::ReadableDatabase;
    let database = redb::Database::open(world.records()).unwrap();
    let table = database.begin_read().unwrap().open_table(PODS).unwrap();
    table.get(key).unwrap().map(|value| value.value().to_vec())
}

#[test]
fn only_root_may_use_the_socket_and_only_one_server_the_directories_and_the_prefix() {
    let world = World::new();
    let server = world.start();
    let mode = std::fs::metadata(&server.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::metadata(world.records()).unwrap().permissions().mode() & 0o777, 0o600);
    let config = world.config();
    let root = config.root.clone();
    assert_eq!(host::fs::mode(&root).unwrap(), 0o700);
    let other = |name: &str| root.with_file_name(name);
    for (config, taken) in [
        (config.clone(), format!("root directory {}", root.display())),
        (Config { root: other("root2"), ..config.clone() }, format!("state directory {}", config.state.display())),
        (
            Config { root: other("root2"), state: other("state2"), ..config.clone() },
            format!("prefix {:?}", config.prefix.as_str()),
        ),
    ] {
        let error = world.lock(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("another cellblock uses the {taken}: it holds ")), "{error}");
    }
    let third =
        Config { root: other("root2"), state: other("state2"), prefix: "ca".parse().unwrap(), ..config.clone() };
    assert!(world.lock(&third).is_ok());
    let socket = server.socket.clone();
    server.stop();
    assert!(!socket.exists());
    // An older server let others pass.
    host::fs::set_mode(&root, 0o711).unwrap();
    assert!(world.lock(&config).is_ok());
    assert_eq!(host::fs::mode(&root).unwrap(), 0o700);
}

#[test]
fn a_server_stops_when_told_though_its_recovery_hangs() {
    let world = World::new();
    let server = world.begin(|| world.faults.arm(1, Fault::HangBefore));
    assert!(world.faults.wait_until_hung(PATIENCE));
    server.stop();
    world.faults.release();
    world.start().stop();
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn spares_are_used_refilled_and_swept() {
    let world = World::with_spares(2);
    let count = |world: &World| world.leftovers().iter().filter(|left| left.starts_with("spare")).count();
    let server = world.start();
    wait_for("two spares", || count(&world) == 2);
    let mut client = server.client();
    let pod = server.run(client.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
    wait_for("two spares again", || count(&world) == 2);
    server.kill();
    let server = world.start();
    let mut client = server.client();
    assert_eq!(server.run(pod_status(&mut client, &pod)).state(), PodSandboxState::SandboxReady);
    wait_for("two new spares", || count(&world) == 2);
    server.run(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod })).unwrap();
    server.stop();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_server_that_stops_leaves_nothing_that_it_was_just_making() {
    let world = World::with_spares(1);
    let server = world.start();
    wait_for("a spare", || world.leftovers().iter().any(|left| left.starts_with("spare")));
    let mut client = server.client();
    let pod = server.run(client.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
    // The next call is the refill's, which gives the pod's containers a second.
    world.faults.arm(1, Fault::HangAfter);
    assert!(world.faults.wait_until_hung(PATIENCE));
    server.run(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod })).unwrap();
    drop(client);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| server.stop());
        std::thread::sleep(Duration::from_secs(2));
        assert!(!stopping.is_finished(), "the spare is half made");
        world.faults.resume();
    });
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn spares_wait_for_a_pod_network() {
    let mut world = World::with_spares(2);
    world.networks.clear();
    let count = |world: &World| world.leftovers().iter().filter(|left| left.starts_with("spare")).count();
    let server = world.start();
    let mut client = server.client();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(count(&world), 0, "there is no bridge for them yet");
    let network_config = Some(NetworkConfig { pod_cidr: "10.21.0.0/24".to_owned() });
    let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
    server.run(client.update_runtime_config(request)).unwrap();
    wait_for("two spares", || count(&world) == 2);
    server.stop();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}
