//! The life of a pod and its containers, and that every step may be repeated.

use std::time::{Duration, Instant};

use host::fault::Fault;
use proto::v1::*;
use tonic::Code;

use crate::world::{PATIENCE, World, create, made, pod, run_pod};

type Client = runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

async fn state(client: &mut Client, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    client.container_status(request).await.unwrap().into_inner().status.unwrap()
}

async fn stop(client: &mut Client, id: &str, timeout: i64) {
    client.stop_container(StopContainerRequest { container_id: id.to_owned(), timeout }).await.unwrap();
}

/// Waits until a container has exited.
pub(crate) async fn exited(client: &mut Client, id: &str) -> ContainerStatus {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = state(client, id).await;
        if status.state() == ContainerState::ContainerExited {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not exit: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_pod_lives_and_leaves_nothing() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id[..13].to_owned(), verbose: true };
        let answer = client.pod_sandbox_status(request).await.unwrap().into_inner();
        let status = answer.status.unwrap();
        assert_eq!((status.id.as_str(), status.state()), (id.as_str(), PodSandboxState::SandboxReady));
        let network = status.network.unwrap();
        assert_eq!((network.ip.as_str(), network.additional_ips.len()), ("10.20.0.2", 1));
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        assert_eq!(info["config"]["metadata"]["name"], "web");

        let request = create(&world, &id, "web", "main", &["forever"]);
        let container = client.create_container(request).await.unwrap().into_inner().container_id;
        let created = state(&mut client, &container).await;
        assert_eq!((created.state(), created.started_at), (ContainerState::ContainerCreated, 0));
        client.start_container(StartContainerRequest { container_id: container.clone() }).await.unwrap();
        let running = state(&mut client, &container).await;
        assert_eq!((running.state(), running.stop_signal()), (ContainerState::ContainerRunning, Signal::Sigusr1));
        assert!(running.started_at > 0 && running.image.unwrap().image == world.image);
        let again = client.start_container(StartContainerRequest { container_id: container.clone() }).await;
        assert_eq!(again.unwrap_err().code(), Code::FailedPrecondition);

        stop(&mut client, &container, 10).await;
        stop(&mut client, &container, 10).await;
        let ended = state(&mut client, &container).await;
        assert_eq!((ended.state(), ended.reason.as_str()), (ContainerState::ContainerExited, "Error"));
        for _ in 0..2 {
            client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
        }
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let status = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
        assert_eq!((status.state(), status.network.unwrap().ip.as_str()), (PodSandboxState::SandboxNotready, ""));
        for _ in 0..2 {
            client.remove_container(RemoveContainerRequest { container_id: container.clone() }).await.unwrap();
            client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
        }
    });
    assert_eq!(world.leftovers(), Vec::<String>::new());
    server.stop();
}

#[test]
fn a_container_ends_by_itself_and_its_end_has_a_reason() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        for (name, command, code, reason) in
            [("done", ["exit", "0"], 0, "Completed"), ("failed", ["exit", "3"], 3, "Error")]
        {
            let request = create(&world, &id, "web", name, &command);
            let container = client.create_container(request).await.unwrap().into_inner().container_id;
            client.start_container(StartContainerRequest { container_id: container.clone() }).await.unwrap();
            let status = exited(&mut client, &container).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
            assert!(status.finished_at >= status.started_at && status.started_at > 0);
        }
        let request = create(&world, &id, "web", "hungry", &["forever"]);
        let hungry = client.create_container(request).await.unwrap().into_inner().container_id;
        client.start_container(StartContainerRequest { container_id: hungry.clone() }).await.unwrap();
        world.kernel.finish(&hungry.parse().unwrap(), 137, true);
        let status = exited(&mut client, &hungry).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    });
}

#[test]
fn a_program_that_is_not_there_ends_the_container() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (_, container) = made(&mut client, &world, &["missing"]).await;
        let error = client.start_container(StartContainerRequest { container_id: container.clone() }).await;
        assert!(error.unwrap_err().message().contains("executable file not found"));
        let status = state(&mut client, &container).await;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
        assert_eq!(status.reason, "StartError");
    });
}

/// A monitor that takes longer than anybody waits may start the container in the end, whose record has ended by then.
#[test]
fn a_start_that_nobody_knows_the_end_of_leaves_nothing_running() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (_, container) = made(&mut client, &world, &["forever"]).await;
        world.faults.arm_each(&[
            ("start container", Fault::FailAfter),
            ("container state", Fault::FailBefore),
            ("kill container", Fault::FailBefore),
        ]);
        client.start_container(StartContainerRequest { container_id: container.clone() }).await.unwrap_err();
        assert!(world.faults.disarm());
        assert_eq!(state(&mut client, &container).await.state(), ContainerState::ContainerExited);
        let (runtime, id) = (world.runtime(), container.parse().unwrap());
        let runs = || matches!(runtime.container_state(&id).unwrap(), runtime::ContainerState::Running(_));
        assert!(runs());
        let deadline = Instant::now() + PATIENCE;
        while runs() {
            assert!(Instant::now() < deadline, "it runs, and nobody ends it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn whatever_keeps_a_container_from_starting_ends_it_and_one_that_did_start_runs() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let pod = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let faults = [("before", Fault::FailBefore), ("full", Fault::Errno(28)), ("after", Fault::FailAfter)];
        for (name, fault) in faults {
            let request = create(&world, &pod, "web", name, &["forever"]);
            let container = client.create_container(request).await.unwrap().into_inner().container_id;
            let request = StartContainerRequest { container_id: container.clone() };
            world.faults.arm(1, fault);
            let answer = client.start_container(request.clone()).await;
            let status = state(&mut client, &container).await;
            if fault == Fault::FailAfter {
                answer.unwrap();
                assert_eq!(status.state(), ContainerState::ContainerRunning);
                continue;
            }
            let error = answer.unwrap_err();
            assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128), "{name}");
            assert_eq!((status.reason.as_str(), status.message.as_str()), ("StartError", error.message()));
            assert!(status.finished_at > 0 && status.started_at == 0);
            assert_eq!(client.start_container(request).await.unwrap_err().code(), Code::FailedPrecondition);
        }
    });
}

#[test]
fn what_is_not_there_is_not_found_or_gone_already() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        let id = "0123456789abcdef".to_owned();
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        assert_eq!(client.pod_sandbox_status(request).await.unwrap_err().code(), Code::NotFound);
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
        assert_eq!(client.container_status(request).await.unwrap_err().code(), Code::NotFound);
        let request = StartContainerRequest { container_id: id.clone() };
        assert_eq!(client.start_container(request).await.unwrap_err().code(), Code::NotFound);
        stop(&mut client, &id, 0).await;
        client.remove_container(RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
        client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
        let request = CreateContainerRequest { pod_sandbox_id: id, ..create(&world, "", "web", "main", &["x"]) };
        assert_eq!(client.create_container(request).await.unwrap_err().code(), Code::NotFound);
        let unknown = client.checkpoint_container(CheckpointContainerRequest::default()).await;
        assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
    });
}

#[test]
fn bad_requests_are_refused_with_their_field_and_leave_nothing() {
    let mut world = World::new();
    world.missing_host_path = cri::MissingHostPath::Refuse;
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        for (request, field) in [
            (RunPodSandboxRequest::default(), "config"),
            (RunPodSandboxRequest { config: Some(PodSandboxConfig::default()), ..Default::default() }, "metadata"),
            (RunPodSandboxRequest { config: Some(pod("web")), runtime_handler: "kata".to_owned() }, "kata"),
        ] {
            let status = client.run_pod_sandbox(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains(field), "{status}");
        }
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let mut request = create(&world, &id, "web", "main", &["forever"]);
        request.config.as_mut().unwrap().image.as_mut().unwrap().image = "no/such:image".to_owned();
        assert_eq!(client.create_container(request).await.unwrap_err().code(), Code::NotFound);
        let mut request = create(&world, &id, "web", "main", &["forever"]);
        request.config.as_mut().unwrap().mounts = vec![Mount {
            host_path: "/no/such/path".to_owned(),
            container_path: "/data".to_owned(),
            ..Mount::default()
        }];
        let status = client.create_container(request).await.unwrap_err();
        assert!(status.message().contains("/no/such/path"), "{status}");
        let containers = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
        assert_eq!(containers.containers, []);
        // The name is free again.
        client.create_container(create(&world, &id, "web", "main", &["forever"])).await.unwrap();
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
    });
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn events_come_in_order() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let kinds = server.run(async {
        let mut events = client.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        let (id, container) = made(&mut client, &world, &["forever"]).await;
        client.start_container(StartContainerRequest { container_id: container.clone() }).await.unwrap();
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
        let mut kinds = Vec::new();
        while kinds.len() < 8 {
            let event = events.message().await.unwrap().unwrap();
            let who = if event.container_id == id { "pod" } else { "container" };
            assert_eq!(event.pod_sandbox_status.as_ref().unwrap().id, id);
            kinds.push((who, event.container_event_type()));
        }
        kinds
    });
    use ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let wanted = [
        ("pod", ContainerCreatedEvent),
        ("pod", ContainerStartedEvent),
        ("container", ContainerCreatedEvent),
        ("container", ContainerStartedEvent),
        ("container", ContainerStoppedEvent),
        ("container", ContainerDeletedEvent),
        ("pod", ContainerStoppedEvent),
        ("pod", ContainerDeletedEvent),
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn a_command_runs_to_its_end_or_to_its_time_out() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (_, container) = made(&mut client, &world, &["forever"]).await;
        let exec = |cmd: &[&str], timeout| ExecSyncRequest {
            container_id: container.clone(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        };
        let early = client.exec_sync(exec(&["exit", "0"], 0)).await.unwrap_err();
        assert!(early.message().contains("CONTAINER_CREATED"), "{early}");
        client.start_container(StartContainerRequest { container_id: container.clone() }).await.unwrap();
        let printed = client.exec_sync(exec(&["print", "hello"], 5)).await.unwrap().into_inner();
        assert_eq!((printed.stdout.as_slice(), printed.exit_code), (&b"hello\n"[..], 0));
        assert_eq!(client.exec_sync(exec(&["exit", "7"], 0)).await.unwrap().into_inner().exit_code, 7);
        let late = client.exec_sync(exec(&["forever"], 1)).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert!(client.exec_sync(exec(&["missing"], 1)).await.unwrap_err().message().contains("not found"));
        assert_eq!(client.exec_sync(exec(&[], 1)).await.unwrap_err().code(), Code::InvalidArgument);
    });
}

#[test]
fn a_pods_status_lists_its_newest_container_first() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (pod_sandbox_id, first) = made(&mut client, &world, &["forever"]).await;
        let mut ids = vec![first];
        for attempt in 1..4 {
            let mut request = create(&world, &pod_sandbox_id, "web", "main", &["forever"]);
            request.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = attempt;
            ids.insert(0, client.create_container(request).await.unwrap().into_inner().container_id);
        }
        let request = PodSandboxStatusRequest { pod_sandbox_id, verbose: false };
        let status = client.pod_sandbox_status(request).await.unwrap().into_inner();
        assert!(status.timestamp > 0);
        assert_eq!(status.containers_statuses.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), ids);
    });
}

#[test]
fn jail_parameters_that_are_configured_reach_the_containers() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let with = |pairs: &[(&str, &str)]| {
            let mut request = run_pod("web");
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            request.config.as_mut().unwrap().annotations.extend(pairs);
            request
        };
        for (key, value) in [
            ("jail.cellblock/allow.vmm", "true"),
            ("jail.cellblock/osrelease.main", ""),
            ("org.freebsd.jail.allow.mlock", "yes"),
            ("org.freebsd.jail.vnet", "new"),
            ("resources.cellblock/nthr", "many"),
        ] {
            let refused = client.run_pod_sandbox(with(&[(key, value)])).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().starts_with(&format!("annotations[{key}]: ")), "{refused}");
        }
        let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        assert!(pods.is_empty(), "nothing was made: {pods:?}");
        let request = with(&[
            ("jail.cellblock/osrelease.other", "14.3-RELEASE"),
            ("org.freebsd.jail.allow.mlock", "true"),
            ("resources.cellblock/writebps", "1Mi"),
        ]);
        let pod = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        let main = client.create_container(create(&world, &pod, "web", "main", &["forever"])).await.unwrap();
        let id = main.into_inner().container_id;
        let specs = world.kernel.specs();
        let main = specs.iter().find(|spec| spec.id.as_str() == id).unwrap();
        assert_eq!(main.jail, [("allow.mlock".to_owned(), "true".to_owned())].into());
        assert_eq!(main.resources.rctl, [("writebps".to_owned(), 1 << 20)].into());
    });
}

#[test]
fn annotations_speak_for_a_kubelet_without_a_linux_section() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let mut request = run_pod("web");
        let annotate = |request: &mut RunPodSandboxRequest, key: &str, value: &str| {
            request.config.as_mut().unwrap().annotations.insert(key.to_owned(), value.to_owned());
        };
        annotate(&mut request, "resources.cellblock/memory.main", "lots");
        let refused = client.run_pod_sandbox(request.clone()).await.unwrap_err();
        assert!(refused.message().starts_with("annotations[resources.cellblock/memory.main]: \"lots\""), "{refused}");
        annotate(&mut request, "resources.cellblock/memory.main", "64Mi");
        annotate(&mut request, "security.cellblock/run-as-user", "80");
        let pod = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        let plain = create(&world, &pod, "web", "main", &["forever"]);
        let mut with_section = create(&world, &pod, "web", "other", &["forever"]);
        with_section.config.as_mut().unwrap().linux = Some(LinuxContainerConfig::default());
        let container_id = client.create_container(plain).await.unwrap().into_inner().container_id;
        let other = client.create_container(with_section).await.unwrap().into_inner().container_id;
        let specs = world.kernel.specs();
        let of = |id: &str| specs.iter().find(|spec| spec.id.as_str() == id).unwrap();
        let user = |id: &str| of(id).process.user.user.clone();
        assert_eq!(of(&container_id).resources.memory, Some(64 << 20));
        assert_eq!(user(&container_id), runtime::spec::NameOrId::Id(80));
        assert!(of(&other).resources.memory.is_none() && user(&other) != user(&container_id));
        let request = ContainerStatusRequest { container_id, verbose: false };
        let status = client.container_status(request).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.resources.unwrap().linux.unwrap().memory_limit_in_bytes, 64 << 20);
    });
}

#[test]
fn silent_clients_keep_no_server_from_stopping() {
    let world = World::new();
    let server = world.start();
    // A connection without a word, and one that never answers a ping: the preface of HTTP/2 and empty SETTINGS.
    let connect = || std::os::unix::net::UnixStream::connect(&server.socket).unwrap();
    let (_mute, mut deaf) = (connect(), connect());
    std::io::Write::write_all(&mut deaf, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    server.run(server.client().version(VersionRequest::default())).unwrap();
    let told = Instant::now();
    server.stop();
    let took = told.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
}

#[test]
fn a_server_stops_at_once_under_a_client_that_listens() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    let events = server.run(client.get_container_events(GetEventsRequest {})).unwrap().into_inner();
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(events);
}

#[test]
fn a_call_that_hangs_holds_up_its_own_pod_only() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    world.faults.arm(2, Fault::HangBefore);
    let stuck = server.spawn(async move { client.run_pod_sandbox(run_pod("stuck")).await });
    assert!(world.faults.wait_until_hung(crate::world::PATIENCE));
    let mut client = server.client();
    server.run(async {
        let id = client.run_pod_sandbox(run_pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        client.status(StatusRequest { verbose: true }).await.unwrap();
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
    });
    world.faults.release();
    assert!(server.run(stuck).unwrap().is_err());
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_command_whose_client_goes_away_is_killed() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (_, container_id) = made(&mut client, &world, &["forever"]).await;
        client.start_container(StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
        // Every call under way holds the node.
        let (calls, holders) = (world.faults.calls(), std::sync::Arc::strong_count(&server.node));
        let request = ExecSyncRequest { container_id, cmd: vec!["forever".to_owned()], timeout: 0 };
        let cut_off = tokio::time::timeout(Duration::from_millis(300), client.exec_sync(request)).await;
        assert!(cut_off.is_err() && world.faults.calls() > calls, "it was cut off while it ran");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::sync::Arc::strong_count(&server.node) > holders {
            assert!(Instant::now() < deadline, "the command still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
