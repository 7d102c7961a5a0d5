//! kubelet's habits: a create is retried when its answer took too long, and names belong to one object only.

use std::time::Duration;

use host::fault::Fault;
use proto::v1::*;
use tonic::Code;

use crate::world::{PATIENCE, Running, World, create, made, run_pod};

#[test]
fn a_name_is_reserved_once() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let error = client.run_pod_sandbox(run_pod("web")).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists);
        let name = "web_default_uid-of-web_0";
        let wanted = format!("failed to reserve sandbox name {name:?}: name {name:?} is reserved for {id:?}");
        assert_eq!(error.message(), wanted);
        let request = create(&world, &id, "web", "main", &["forever"]);
        client.create_container(request.clone()).await.unwrap();
        let error = client.create_container(request.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists);
        let name = "main_web_default_uid-of-web_0";
        assert!(error.message().contains(&format!("container name {name:?}")), "{error}");
        // The next attempt is another name.
        let mut request = request;
        request.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = 1;
        client.create_container(request).await.unwrap();
    });
}

#[test]
fn a_create_whose_client_went_away_is_finished_once_and_answers_the_retry() {
    let world = World::new();
    let server = world.start();
    server.run(async {
        for step in 0..20 {
            // A connection of its own each time: what is cut off is the call, wherever it is just then.
            let mut client = server.client();
            let patience = Duration::from_micros(300 * step);
            let cut_off = tokio::time::timeout(patience, client.run_pod_sandbox(run_pod("web"))).await;
            let id = match (cut_off, client.run_pod_sandbox(run_pod("web")).await) {
                (Ok(first), retry) => {
                    assert_eq!(retry.unwrap_err().code(), Code::AlreadyExists);
                    first.unwrap().into_inner().pod_sandbox_id
                }
                (Err(_), Ok(retry)) => retry.into_inner().pod_sandbox_id,
                // The answer was on its way when the client gave up: it finds the pod in the list.
                (Err(_), Err(status)) => {
                    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
                    let all = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap();
                    all.into_inner().items[0].id.clone()
                }
            };
            let all = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
            assert_eq!(all.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(), [id.as_str()], "step {step}");
            client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
        }
    });
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn calls_at_once_on_one_pod_do_not_disturb_each_other() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let same: Vec<_> = (0..8)
            .map(|_| {
                let mut client = server.client();
                tokio::spawn(async move { client.run_pod_sandbox(run_pod("web")).await })
            })
            .collect();
        let mut made = Vec::new();
        for answer in same {
            match answer.await.unwrap() {
                Ok(answer) => made.push(answer.into_inner().pod_sandbox_id),
                Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status}"),
            }
        }
        made.dedup();
        assert_eq!(made.len(), 1);
        let id = made.remove(0);
        let calls: Vec<_> = (0..6)
            .map(|number| {
                let (mut client, name) = (server.client(), format!("c{number}"));
                let request = create(&world, &id, "web", &name, &["forever"]);
                tokio::spawn(async move {
                    let made = client.create_container(request).await?.into_inner();
                    client.start_container(StartContainerRequest { container_id: made.container_id.clone() }).await?;
                    client.stop_container(StopContainerRequest { container_id: made.container_id, timeout: 1 }).await
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let removals: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, id) = (server.client(), id.clone());
                tokio::spawn(
                    async move { client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await },
                )
            })
            .collect();
        for removal in removals {
            removal.await.unwrap().unwrap();
        }
        let left = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
        assert_eq!(left.containers, []);
    });
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_second_stop_does_not_wait_for_the_first() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (_, container_id) = made(&mut client, &world, &["ignore"]).await;
        client.start_container(StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
        let slow = tokio::spawn({
            let (mut client, container_id) = (server.client(), container_id.clone());
            async move { client.stop_container(StopContainerRequest { container_id, timeout: 3600 }).await }
        });
        client.stop_container(StopContainerRequest { container_id, timeout: 0 }).await.unwrap();
        slow.await.unwrap().unwrap();
    });
}

#[test]
fn a_refused_container_leaves_no_record_no_root_and_asks_no_backend() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let request = create(&world, &id, "web", "main", &["forever"]);
        let volume = Mount {
            container_path: "/volume".to_owned(),
            image: Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() }),
            readonly: true,
            ..Mount::default()
        };
        let refused = |field: &'static str, change: &dyn Fn(&mut ContainerConfig)| {
            let mut request = request.clone();
            // A volume that comes before the refused field must not be mounted either.
            request.config.as_mut().unwrap().mounts = vec![volume.clone()];
            change(request.config.as_mut().unwrap());
            (field, request)
        };
        let missing =
            Mount { image: Some(ImageSpec { image: "none".to_owned(), ..Default::default() }), ..volume.clone() };
        let calls = world.faults.calls();
        for (field, request) in [
            refused("stop_signal: 77", &|config| config.stop_signal = 77),
            refused("working_dir: \"etc\"", &|config| config.working_dir = "etc".to_owned()),
            refused("CDI_devices", &|config| config.cdi_devices = vec![CdiDevice { name: "gpu".to_owned() }]),
            refused("mounts[1].host_path: \"a\"", &|config| {
                config.mounts.push(Mount {
                    host_path: "a".to_owned(),
                    container_path: "/a".to_owned(),
                    ..Mount::default()
                });
            }),
            refused("image \"none\" not found", &|config| config.mounts.push(missing.clone())),
        ] {
            let status = client.create_container(request).await.unwrap_err();
            assert!(status.message().contains(field), "{status}");
            assert_eq!(world.faults.calls(), calls, "{field}: no backend was asked, no record was written");
        }
        assert_eq!(std::fs::read_dir(world.root("x").ancestors().nth(2).unwrap()).unwrap().count(), 0, "no root");
        client.create_container(request).await.unwrap();
    });
}

/// The call of a roll-back that removes the pod from the network, after the record and the place.
const DETACH: u64 = 3;

/// Asks for a pod that cannot be attached, and whose roll-back fails at its `nth` call: the pod's id. None: it has fewer calls.
fn fail_to_roll_back(world: &World, server: &Running, nth: u64) -> Option<String> {
    let mut client = server.client();
    server.run(async {
        // The record, the pod, its interface.
        world.faults.arm(3, Fault::HangBefore);
        let run = tokio::spawn({
            let mut client = client.clone();
            async move { client.run_pod_sandbox(run_pod("web")).await }
        });
        let faults = world.faults.clone();
        assert!(tokio::task::spawn_blocking(move || faults.wait_until_hung(PATIENCE)).await.unwrap());
        world.faults.arm(nth, Fault::FailBefore);
        world.faults.release();
        let status = run.await.unwrap().unwrap_err();
        assert!(status.message().contains("hung"), "{status}");
        let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        assert_eq!(world.faults.disarm(), pods.len() == 1, "a roll-back that succeeds leaves no pod");
        pods.first().map(|pod| pod.id.clone())
    })
}

fn assert_failed(server: &Running, id: &str) {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let answer = server.run(server.client().pod_sandbox_status(request)).unwrap().into_inner();
    assert_eq!(answer.status.unwrap().state(), PodSandboxState::SandboxNotready);
    assert!(answer.info["info"].contains("\"phase\":\"failed\""), "{:?}", answer.info);
}

#[test]
fn a_pod_whose_roll_back_failed_at_any_call_is_rolled_back_by_a_retry() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    for nth in DETACH.. {
        let Some(id) = fail_to_roll_back(&world, &server, nth) else {
            assert!(nth > DETACH + 1, "the network, the pod, and the record are removed");
            return;
        };
        assert_failed(&server, &id);
        let made = server.run(client.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
        assert_ne!(made, id, "the name was free again");
        server.run(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: made })).unwrap();
        assert_eq!(world.leftovers(), [""; 0], "call {nth}");
    }
}

#[test]
fn a_pod_whose_roll_back_failed_is_rolled_back_by_a_stop_or_a_restart() {
    let world = World::new();
    let server = world.start();
    let id = fail_to_roll_back(&world, &server, DETACH).unwrap();
    server.run(server.client().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id })).unwrap();
    assert_eq!(world.leftovers(), [""; 0]);
    fail_to_roll_back(&world, &server, DETACH).unwrap();
    server.kill();
    let server = world.start();
    let pods = server.run(server.client().list_pod_sandbox(ListPodSandboxRequest::default())).unwrap().into_inner();
    assert_eq!((pods.items, world.leftovers()), (vec![], vec![]));
}

#[test]
fn a_pod_whose_roll_back_failed_stays_so_over_a_restart_that_cannot_remove_it() {
    let calls_of_a_start = {
        let world = World::new();
        let _server = world.start();
        world.faults.calls()
    };
    let world = World::new();
    let server = world.start();
    let id = fail_to_roll_back(&world, &server, DETACH).unwrap();
    server.kill();
    // The place, then the network's removal.
    world.faults.arm(calls_of_a_start + 2, Fault::FailBefore);
    let server = world.start();
    assert!(world.faults.disarm(), "the recovery could not remove it");
    assert_failed(&server, &id);
    server.run(server.client().run_pod_sandbox(run_pod("web"))).unwrap();
    assert_eq!(world.leftovers().len(), 2, "{:?}", world.leftovers());
}

#[test]
fn what_only_the_backend_refuses_costs_no_address_no_record_and_no_root() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let mut refused = run_pod("refused");
        let sysctls = [("net.missing".to_owned(), "1".to_owned())].into();
        refused.config.as_mut().unwrap().linux = Some(LinuxPodSandboxConfig { sysctls, ..Default::default() });
        let mut container = create(&world, &id, "web", "main", &["forever"]);
        let profile = SecurityProfile {
            profile_type: security_profile::ProfileType::Localhost.into(),
            localhost_ref: "strict".to_owned(),
            ..SecurityProfile::default()
        };
        let context = LinuxContainerSecurityContext { apparmor: Some(profile), ..Default::default() };
        let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        container.config.as_mut().unwrap().linux = Some(linux);
        let calls = world.faults.calls();
        for _retry in 0..3 {
            let pod = client.run_pod_sandbox(refused.clone()).await.unwrap_err();
            assert_eq!((pod.code(), pod.message()), (Code::InvalidArgument, "sysctls: net.missing does not exist"));
            let container = client.create_container(container.clone()).await.unwrap_err();
            assert_eq!(container.code(), Code::InvalidArgument, "{container}");
            assert!(container.message().contains("AppArmor profile \"strict\""), "{container}");
        }
        assert_eq!(world.faults.calls(), calls, "no backend was asked to make anything");
    });
}
