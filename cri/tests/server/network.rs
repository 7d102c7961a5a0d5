//! The network changes behind the server's back.

use std::time::{Duration, Instant};

use proto::v1::{
    PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeCondition,
    StatusRequest, StopPodSandboxRequest,
};

use crate::world::{Running, World, pod, run_pod};

/// Repairs take less.
const SOON: Duration = Duration::from_secs(5);

fn network_ready(server: &Running) -> (RuntimeCondition, String) {
    let mut client = server.client();
    let answer = server.run(client.status(StatusRequest { verbose: true })).unwrap().into_inner();
    let conditions = answer.status.unwrap().conditions;
    let condition = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    (condition, answer.info["cellblock"].clone())
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_the_network_loses_is_told_restored_and_counted() {
    let world = World::new();
    let server = world.start();
    assert!(network_ready(&server).0.status);
    world.network.lose("bridge", true);
    wait_for("it was not told", || {
        let (condition, _) = network_ready(&server);
        !condition.status && condition.message.contains("the node's network: bridge")
    });
    world.network.unstick();
    wait_for("it was not restored", || network_ready(&server).0.status);
    let (_, info) = network_ready(&server);
    assert!(info.contains(r#""networkRepairs":{"count":1,"last":["bridge"]}"#), "{info}");
}

#[test]
fn status_is_answered_from_memory() {
    const ASKED: u64 = 200;
    let world = World::new();
    let server = world.start();
    network_ready(&server);
    let before = world.network.looks();
    (0..ASKED).for_each(|_| drop(network_ready(&server)));
    let looks = world.network.looks() - before;
    assert!(looks < ASKED / 4, "{looks} looks for {ASKED} answers: only the clock should look");
}

#[test]
fn what_cannot_be_restored_is_not_ready_and_is_tried_again() {
    let world = World::new();
    let server = world.start();
    world.network.lose("address", true);
    wait_for("nobody tried", || network_ready(&server).0.message.contains("it is lost for good"));
    assert!(!network_ready(&server).0.status);
    world.network.unstick();
    wait_for("it was not tried again", || network_ready(&server).0.status);
}

#[test]
fn a_pod_whose_interface_is_destroyed_is_not_ready() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    let id = server.run(client.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
    world.network.cut(&id.parse().unwrap());
    let request = || PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
    wait_for("it is still ready", || {
        let answer = server.run(client.clone().pod_sandbox_status(request())).unwrap().into_inner();
        let lost = answer.status.unwrap().state == i32::from(PodSandboxState::SandboxNotready);
        assert!(!lost || answer.info.values().any(|info| info.contains("network interface")), "{:?}", answer.info);
        lost
    });
    server.run(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id })).unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

/// Runs a pod, as the next of its name; its id and address.
fn run_again(server: &Running, name: &str, uid: &str) -> (String, String) {
    let mut config = pod(name);
    uid.clone_into(&mut config.metadata.as_mut().unwrap().uid);
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let status = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
        (id, status.network.unwrap().ip)
    })
}

#[test]
fn a_pod_that_comes_back_has_the_address_that_it_had() {
    let world = World::new();
    let server = world.start();
    let (first, address) = run_again(&server, "db-0", "1");
    let mut client = server.client();
    server.run(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: first })).unwrap();
    let (_, others) = run_again(&server, "web", "1");
    assert_ne!(others, address);
    let (second, again) = run_again(&server, "db-0", "2");
    assert_eq!(again, address);
    // Stopped, not removed, as kubelet leaves it; and the next server knows it too.
    server.run(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: second })).unwrap();
    server.kill();
    let server = world.start();
    assert_ne!(run_again(&server, "log", "1").1, address);
    assert_eq!(run_again(&server, "db-0", "3").1, address);
}
