//! For N = 1, 2, 3 …: the Nth call of a backend or of the records fails, the kernel has nothing left for it, it hangs until its
//! client has given up and asked again, or the server dies there. The request can be made again, and after Remove nothing is
//! left.

use std::time::Duration;

use host::fault::{Fault, Faults};
use proto::v1::*;
use tonic::{Code, Status};

use crate::world::{PATIENCE, Running, World, create, run_pod};

type Client = runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

/// How often a request is made before it counts as one that never succeeds: a fault strikes once, and its roll-back may need
/// one more.
const ATTEMPTS: usize = 3;
/// More calls than the scenario makes: the loop ends when no fault strikes any more.
const MOST_CALLS: u64 = 400;

/// What a client does about errors, and about calls that hang.
struct Manners {
    /// Looks at each error.
    check: Box<dyn Fn(&Status)>,
    /// Lets calls go that hang, once the client has given up and asked again. None: whoever waits, waits.
    let_go: Option<fn(&Faults)>,
}

impl Manners {
    /// A client that makes a request again when it failed, whatever the error.
    fn patient() -> Self {
        Self { check: Box::new(|_| ()), let_go: None }
    }

    /// Ready when a call hangs that this client does not wait for.
    async fn hung(&self, world: &World) {
        while self.let_go.is_none() || !world.faults.wait_until_hung(Duration::ZERO) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Makes a request until it succeeds. When a call hangs, its client goes away and another asks again meanwhile, as kubelet does
/// when its deadline has passed; whoever asks for what is in memory is answered all the time.
macro_rules! again {
    ($client:ident.$call:ident($request:expr), $world:ident, $manners:ident) => {{
        let request = $request;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = tokio::select! {
                answer = $client.$call(request.clone()) => Some(answer),
                () = $manners.hung($world) => None,
            };
            let answer = match answer {
                Some(answer) => answer,
                None => {
                    let (mut other, request) = ($client.clone(), request.clone());
                    let retry = tokio::spawn(async move { other.$call(request).await });
                    $client.version(VersionRequest::default()).await.unwrap();
                    $client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap();
                    $client.list_containers(ListContainersRequest::default()).await.unwrap();
                    $manners.let_go.unwrap()(&$world.faults);
                    retry.await.unwrap()
                }
            };
            match answer {
                Ok(answer) => break answer.into_inner(),
                // kubelet looks before it starts again: it was started by the call that its client gave up, or could not be.
                Err(status)
                    if stringify!($call) == "start_container"
                        && ["RUNNING state", "EXITED state"].iter().any(|state| status.message().contains(state)) =>
                {
                    break Default::default();
                }
                Err(status) => {
                    ($manners.check)(&status);
                    assert!(attempts < ATTEMPTS, "it never succeeds: {status}");
                }
            }
        }
    }};
}

/// Makes a container and starts it. One that could not be started has ended and makes room for another, as with kubelet.
async fn started(
    client: &mut Client,
    request: &CreateContainerRequest,
    world: &World,
    manners: &Manners,
) -> ContainerStatus {
    loop {
        let id = again!(client.create_container(request.clone()), world, manners).container_id;
        again!(client.start_container(StartContainerRequest { container_id: id.clone() }), world, manners);
        let status = ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let status = again!(client.container_status(status), world, manners).status.unwrap();
        if status.state() == ContainerState::ContainerRunning {
            return status;
        }
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{status:?}");
        again!(client.remove_container(RemoveContainerRequest { container_id: id }), world, manners);
    }
}

/// The whole life of a pod, each request made until it succeeds.
async fn scenario(client: &mut Client, world: &World, manners: &Manners) {
    let pod = again!(client.run_pod_sandbox(run_pod("web")), world, manners).pod_sandbox_id;
    let request = create(world, &pod, "web", "main", &["forever"]);
    let container = started(client, &request, world, manners).await.id;
    again!(client.stop_container(StopContainerRequest { container_id: container.clone(), timeout: 1 }), world, manners);
    again!(client.remove_container(RemoveContainerRequest { container_id: container }), world, manners);
    started(client, &request, world, manners).await;
    again!(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }), world, manners);
    again!(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }), world, manners);
}

async fn assert_empty(client: &mut Client, world: &World, when: &str) {
    let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let containers = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert_eq!((pods, containers), (vec![], vec![]), "{when}");
    assert_eq!(world.leftovers(), Vec::<String>::new(), "{when}");
}

/// Each call of the scenario in its turn has the fault, and the client these manners.
fn in_every_call(fault: impl Fn(u64) -> Fault, manners: &Manners) {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    for nth in 1..MOST_CALLS {
        let fault = fault(nth);
        world.faults.arm(nth, fault);
        server.run(scenario(&mut client, &world, manners));
        let struck = world.faults.disarm();
        // It may have struck where nobody waits for it: in a task that watches a container.
        world.faults.release();
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
    in_every_call(|_| Fault::FailBefore, &Manners::patient());
}

#[test]
fn when_a_call_fails_after_its_work_the_request_can_be_made_again() {
    in_every_call(|_| Fault::FailAfter, &Manners::patient());
}

#[test]
fn when_the_kernel_has_nothing_left_the_error_says_what_and_later_the_request_succeeds() {
    use nix::libc::{EAGAIN, EMFILE, ENFILE, ENOSPC};
    let errnos = [EAGAIN, EMFILE, ENFILE, ENOSPC];
    let said = errnos.map(|errno| std::io::Error::from_raw_os_error(errno).to_string());
    let check = move |status: &Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(said.iter().any(|said| status.message().contains(said)), "{status}");
    };
    let fault = |nth| Fault::Errno(errnos[usize::try_from(nth).unwrap() % errnos.len()]);
    in_every_call(fault, &Manners { check: Box::new(check), let_go: None });
}

#[test]
fn when_a_call_hangs_and_goes_on_after_its_client_has_asked_again_both_are_served() {
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        in_every_call(|_| fault, &Manners { let_go: Some(Faults::resume), ..Manners::patient() });
    }
}

#[test]
fn when_a_call_hangs_and_fails_after_its_client_has_asked_again_that_one_is_served() {
    in_every_call(|_| Fault::HangAfter, &Manners { let_go: Some(Faults::release), ..Manners::patient() });
}

#[test]
fn a_root_stays_until_every_mount_in_it_is_gone() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let pod = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        for nth in 1..MOST_CALLS {
            let request = create(&world, &pod, "web", "main", &["forever"]);
            let container = client.create_container(request).await.unwrap().into_inner().container_id;
            let request = RemoveContainerRequest { container_id: container.clone() };
            world.faults.arm(nth, Fault::FailBefore);
            let failed = client.remove_container(request.clone()).await;
            world.faults.disarm();
            let failed = failed.expect_err("the fault strikes before every call was made");
            let has_root = || world.root(&container).exists();
            let unmounted = !failed.message().contains("injected: remove container");
            if !unmounted {
                assert!(has_root(), "its volumes may still be mounted in it");
            }
            client.remove_container(request).await.unwrap();
            assert!(!has_root());
            if !unmounted {
                return;
            }
        }
        panic!("no call removes a container");
    });
}

#[test]
fn a_create_whose_deadline_has_passed_is_finished_and_answers_the_retry() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    world.faults.arm(3, Fault::HangBefore);
    server.run(async {
        let mut request = tonic::Request::new(run_pod("web"));
        request.set_timeout(Duration::from_millis(300));
        let status = client.run_pod_sandbox(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
        assert!(wait_until_hung(&world).await, "the call is still under way");
        let retry = tokio::spawn({
            let mut client = client.clone();
            async move { client.run_pod_sandbox(run_pod("web")).await }
        });
        world.faults.resume();
        let id = retry.await.unwrap().unwrap().into_inner().pod_sandbox_id;
        let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        assert_eq!(pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&id], "there is one, and it is the retry's");
    });
}

/// Runs the scenario until a call hangs; false when it came to its end.
fn hangs(server: &Running, world: &World) -> bool {
    let mut client = server.client();
    let patient = Manners::patient();
    let ended = server.run(async {
        tokio::select! {
            () = scenario(&mut client, world, &patient) => true,
            hung = wait_until_hung(world) => !hung,
        }
    });
    !ended
}

async fn wait_until_hung(world: &World) -> bool {
    let faults = world.faults.clone();
    tokio::task::spawn_blocking(move || faults.wait_until_hung(PATIENCE)).await.unwrap()
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
        server.run(scenario(&mut client, &world, &Manners::patient()));
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
