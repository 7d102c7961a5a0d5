//! For N = 1, 2, 3 …: the Nth call of a backend or of the records fails, or the server dies there. The request can be made
//! again, and after Remove nothing is left.

use host::fault::Fault;
use proto::v1::*;
use tonic::Status;

use crate::world::{Running, World, create, run_pod};

type Client = runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

/// How often a request is made before it counts as one that never succeeds: a fault strikes once, and its roll-back may need
/// one more.
const ATTEMPTS: usize = 3;
/// More calls than the scenario makes: the loop ends when no fault strikes any more.
const MOST_CALLS: u64 = 400;

/// Makes a request until it succeeds.
macro_rules! again {
    ($client:ident.$call:ident($request:expr)) => {{
        let request = $request;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match $client.$call(request.clone()).await {
                Ok(answer) => break answer.into_inner(),
                Err(status) if attempts == ATTEMPTS => panic!("it never succeeds: {status}"),
                Err(_) => {}
            }
        }
    }};
}

/// The whole life of a pod, each request made until it succeeds.
async fn scenario(client: &mut Client, world: &World) {
    let pod = again!(client.run_pod_sandbox(run_pod("web"))).pod_sandbox_id;
    let request = create(world, &pod, "web", "main", &["forever"]);
    let container = again!(client.create_container(request.clone())).container_id;
    again!(client.start_container(StartContainerRequest { container_id: container.clone() }));
    let status =
        again!(client.container_status(ContainerStatusRequest { container_id: container.clone(), verbose: true }));
    assert_eq!(status.status.unwrap().state(), ContainerState::ContainerRunning);
    again!(client.stop_container(StopContainerRequest { container_id: container.clone(), timeout: 1 }));
    again!(client.remove_container(RemoveContainerRequest { container_id: container }));
    let container = again!(client.create_container(request)).container_id;
    again!(client.start_container(StartContainerRequest { container_id: container }));
    again!(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }));
    again!(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }));
}

async fn assert_empty(client: &mut Client, world: &World, when: &str) {
    let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let containers = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert_eq!((pods, containers), (vec![], vec![]), "{when}");
    assert_eq!(world.leftovers(), Vec::<String>::new(), "{when}");
}

fn every_call_fails(fault: Fault) {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    for nth in 1..MOST_CALLS {
        world.faults.arm(nth, fault);
        server.run(scenario(&mut client, &world));
        let struck = world.faults.disarm();
        server.run(assert_empty(&mut client, &world, &format!("{fault:?} in call {nth}")));
        if !struck {
            assert!(nth > 20, "the scenario makes more calls than {nth}");
            server.stop();
            // What the records hold is what the next server finds.
            let server = world.start();
            let mut client = server.client();
            server.run(assert_empty(&mut client, &world, "after a restart"));
            return;
        }
    }
    panic!("the scenario makes more than {MOST_CALLS} calls");
}

#[test]
fn when_a_call_fails_before_its_work_the_request_can_be_made_again() {
    every_call_fails(Fault::FailBefore);
}

#[test]
fn when_a_call_fails_after_its_work_the_request_can_be_made_again() {
    every_call_fails(Fault::FailAfter);
}

/// Runs the scenario until a call hangs; false when it came to its end.
fn hangs(server: &Running, world: &World) -> bool {
    let mut client = server.client();
    let ended = server.run(async {
        tokio::select! {
            () = scenario(&mut client, world) => true,
            hung = wait_until_hung(world) => !hung,
        }
    });
    !ended
}

async fn wait_until_hung(world: &World) -> bool {
    let faults = world.faults.clone();
    let patience = crate::world::PATIENCE;
    tokio::task::spawn_blocking(move || faults.wait_until_hung(patience)).await.unwrap()
}

async fn remove_everything(client: &mut Client) -> Result<(), Status> {
    let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    for pod in pods {
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.id }).await?;
    }
    Ok(())
}

fn the_server_dies_in_every_call(fault: Fault) {
    for nth in 1..MOST_CALLS {
        let world = World::new();
        let server = world.start();
        server.pull(&world);
        world.faults.arm(nth, fault);
        if !hangs(&server, &world) {
            world.faults.disarm();
            assert!(nth > 20, "the scenario makes more calls than {nth}");
            return;
        }
        server.kill();
        let server = world.start();
        let mut client = server.client();
        server.run(remove_everything(&mut client)).unwrap();
        server.run(assert_empty(&mut client, &world, &format!("{fault:?} in call {nth}")));
        server.run(scenario(&mut client, &world));
        server.run(assert_empty(&mut client, &world, &format!("{fault:?} in call {nth}, and once more")));
    }
    panic!("the scenario makes more than {MOST_CALLS} calls");
}

#[test]
fn when_the_server_dies_before_a_call_the_next_one_finds_its_way() {
    the_server_dies_in_every_call(Fault::HangBefore);
}

#[test]
fn when_the_server_dies_after_a_call_the_next_one_finds_its_way() {
    the_server_dies_in_every_call(Fault::HangAfter);
}
