//! The admin service: snapshots over its socket, refusals in gRPC's codes, and the commands that are its clients.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use cri::{admin_socket, roots, snapshots};
use futures::StreamExt;
use host::fault::Fault;
use proto::admin::*;
use proto::v1::*;
use tonic::Code;

use crate::world::{Running, World, create, made, run_pod};

fn snapshot(target: &str, name: &str) -> SnapshotRequest {
    SnapshotRequest { target: target.to_owned(), name: name.to_owned() }
}

fn rollback(target: &str, name: &str) -> RollbackRequest {
    RollbackRequest { target: target.to_owned(), name: name.to_owned() }
}

/// The snapshots of a pod or container, each with the name of its container.
fn names(server: &Running, target: &str) -> Vec<String> {
    let request = ListSnapshotsRequest { target: target.to_owned() };
    let found = server.run(server.admin().list_snapshots(request)).unwrap().into_inner().snapshots;
    found.into_iter().map(|one| format!("{} {}", one.container, one.name)).collect()
}

#[test]
fn a_root_goes_back_to_its_snapshots() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (mut client, mut admin) = (server.client(), server.admin());
    let (_, id) = server.run(made(&mut client, &world, &["forever"]));
    let file = world.root(&id).join("etc/hello");
    for name in ["a", "b", "c"] {
        std::fs::write(&file, name).unwrap();
        server.run(admin.snapshot(snapshot(&id[..12], name))).unwrap();
    }
    assert_eq!(names(&server, &id), ["main a", "main b", "main c"], "oldest first");
    server.run(admin.rollback(rollback(&id, "b"))).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "b");
    assert_eq!(names(&server, &id), ["main a", "main b"], "later ones are gone");
}

#[test]
fn what_cannot_be_done_is_refused_with_its_code() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (mut client, mut admin) = (server.client(), server.admin());
    let (_, id) = server.run(made(&mut client, &world, &["forever"]));
    server.run(admin.snapshot(snapshot(&id, "a"))).unwrap();
    server.run(client.start_container(StartContainerRequest { container_id: id.clone() })).unwrap();
    let running = server.run(admin.rollback(rollback(&id, "a"))).unwrap_err();
    assert_eq!(running.code(), Code::FailedPrecondition);
    assert_eq!(running.message(), format!("container {} is running: stop it first", &id[..12]));
    for (outcome, code) in [
        (server.run(admin.snapshot(snapshot(&id, "a"))).map(drop), Code::FailedPrecondition),
        (server.run(admin.snapshot(snapshot(&id, "x/../y"))).map(drop), Code::InvalidArgument),
        (server.run(admin.snapshot(snapshot("", "b"))).map(drop), Code::InvalidArgument),
        (server.run(admin.snapshot(snapshot("zz", "b"))).map(drop), Code::NotFound),
    ] {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    server.run(client.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 })).unwrap();
    let missing = server.run(admin.rollback(rollback(&id, "b"))).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    server.run(admin.rollback(rollback(&id, "a"))).unwrap();
}

/// A pod with two containers that were not started; the ids of the pod and of the containers.
fn pod_of_two(world: &World, server: &Running) -> (String, [String; 2]) {
    let mut client = server.client();
    let (pod, first) = server.run(made(&mut client, world, &["forever"]));
    let request = create(world, &pod, "web", "side", &["forever"]);
    let second = server.run(client.create_container(request)).unwrap().into_inner().container_id;
    (pod, [first, second])
}

#[test]
fn a_whole_pod_is_kept_and_goes_back() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (pod, ids) = pod_of_two(&world, &server);
    let mut admin = server.admin();
    let write = |text: &str| ids.each_ref().map(|id| std::fs::write(world.root(id).join("etc/hello"), text).unwrap());
    let read = || ids.each_ref().map(|id| std::fs::read_to_string(world.root(id).join("etc/hello")).unwrap());
    write("old");
    let kept = server.run(admin.snapshot(snapshot("default/web", "a"))).unwrap().into_inner().containers;
    assert_eq!(kept, ids);
    write("new");
    server.run(admin.snapshot(snapshot(&ids[1], "only-one"))).unwrap();
    assert_eq!(names(&server, "web"), ["main a", "side a", "side only-one"]);
    let refused = server.run(admin.snapshot(snapshot("web", "only-one"))).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(names(&server, "web").len(), 3, "all or none");
    let missing = server.run(admin.rollback(rollback(&pod, "only-one"))).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    assert_eq!((names(&server, "web").len(), read()), (3, ["new", "new"].map(str::to_owned)), "none is changed");
    server.run(admin.rollback(rollback("web", "a"))).unwrap();
    assert_eq!(
        (names(&server, &pod), read()),
        (vec!["main a".to_owned(), "side a".to_owned()], ["old", "old"].map(str::to_owned))
    );
}

#[test]
fn a_pod_of_which_a_container_runs_is_not_rolled_back() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (pod, ids) = pod_of_two(&world, &server);
    let (mut client, mut admin) = (server.client(), server.admin());
    server.run(admin.snapshot(snapshot(&pod, "a"))).unwrap();
    server.run(client.start_container(StartContainerRequest { container_id: ids[1].clone() })).unwrap();
    std::fs::write(world.root(&ids[0]).join("etc/hello"), "new").unwrap();
    let running = server.run(admin.rollback(rollback("web", "a"))).unwrap_err();
    assert_eq!(running.message(), format!("container {} is running: stop it first", &ids[1][..12]));
    assert_eq!(std::fs::read_to_string(world.root(&ids[0]).join("etc/hello")).unwrap(), "new");
}

#[test]
fn a_roll_back_that_fails_half_way_says_so_and_goes_on() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (_, ids) = pod_of_two(&world, &server);
    let mut admin = server.admin();
    server.run(admin.snapshot(snapshot("web", "a"))).unwrap();
    // Two states, two lists, then the two roll-backs.
    world.faults.arm(6, Fault::FailBefore);
    let failed = server.run(admin.rollback(rollback("web", "a"))).unwrap_err();
    let wanted = format!("1 of 2 containers are rolled back, {} is not; roll back again to go on", &ids[1][..12]);
    assert!(failed.message().starts_with(&wanted), "{failed}");
    server.run(admin.rollback(rollback("web", "a"))).unwrap();
    assert_eq!(names(&server, "web"), ["main a", "side a"]);
}

#[test]
fn annotations_limit_a_root_and_keep_its_snapshots() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (mut client, mut admin) = (server.client(), server.admin());
    let mut request = run_pod("web");
    let annotations = &mut request.config.as_mut().unwrap().annotations;
    for (key, value) in [("refquota", "64Mi"), ("refquota.side", "1Gi"), ("snapshots", "keep")] {
        annotations.insert(format!("storage.cellblock/{key}"), value.to_owned());
    }
    let pod = server.run(client.run_pod_sandbox(request.clone())).unwrap().into_inner().pod_sandbox_id;
    let made = ["main", "side"].map(|name| {
        let request = create(&world, &pod, "web", name, &["forever"]);
        server.run(client.create_container(request)).unwrap().into_inner().container_id
    });
    let limit = |id: &str| std::fs::read_to_string(world.root(id).with_file_name("limit")).unwrap();
    assert_eq!(made.each_ref().map(|id| limit(id)), [64 << 20, 1 << 30].map(|bytes: u64| bytes.to_string()));
    server.run(admin.snapshot(snapshot(&made[0], "a"))).unwrap();
    server.run(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod })).unwrap();
    let kept = |name: &str| world.root(&made[0]).ancestors().nth(3).unwrap().join("kept").join(name).exists();
    assert!(kept("default.web.main") && !kept("default.web.side"), "only what has snapshots is kept");

    request.config.as_mut().unwrap().annotations.insert("storage.cellblock/refquota".to_owned(), "much".to_owned());
    let refused = server.run(client.run_pod_sandbox(request)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("annotations[storage.cellblock/refquota]: \"much\""), "{refused}");
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

/// A request for a pod whose container `main` wants an imported root.
fn run_pod_from(root: &str) -> RunPodSandboxRequest {
    let mut request = run_pod("copy");
    let annotations = &mut request.config.as_mut().unwrap().annotations;
    annotations.insert("storage.cellblock/root.main".to_owned(), root.to_owned());
    request
}

#[test]
fn an_exported_root_is_imported_for_other_pods() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (state, mut client) = (world.state(), server.client());
    let (_, id) = server.run(made(&mut client, &world, &["forever"]));
    let file = world.root(&id).join("etc/hello");
    std::fs::write(&file, "as it was").unwrap();
    snapshots::take(&state, &id, "a").unwrap();
    std::fs::write(&file, "as it is").unwrap();

    let archive = state.join("web.zfs");
    let mut out = Vec::new();
    roots::export(&state, "default/web/main", "a", &archive, &mut out).unwrap();
    assert!(String::from_utf8(out).unwrap().starts_with(&archive.display().to_string()));
    assert_eq!(std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600, "it may hold secrets");
    roots::import(&state, "web-2026", &archive).unwrap();
    let again = roots::import(&state, "web-2026", &archive).unwrap_err().to_string();
    assert_eq!(again, "there is an imported root \"web-2026\" already");

    let pod = server.run(client.run_pod_sandbox(run_pod_from("web-2026"))).unwrap().into_inner().pod_sandbox_id;
    let made = ["main", "side"].map(|name| {
        let mut request = create(&world, &pod, "copy", name, &["forever"]);
        let security = request.config.as_mut().unwrap().linux.get_or_insert_default();
        security.security_context.get_or_insert_default().readonly_rootfs = true;
        server.run(client.create_container(request)).unwrap().into_inner().container_id
    });
    let hello = |id: &str| std::fs::read_to_string(world.root(id).join("etc/hello")).ok();
    assert_eq!(hello(&made[0]).as_deref(), Some("as it was"));
    assert_ne!(hello(&made[1]).as_deref(), Some("as it was"), "only one was to have it");
}

#[test]
fn what_of_an_import_or_export_is_wrong_is_named_and_nothing_stays() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (state, mut client, mut admin) = (world.state(), server.client(), server.admin());
    let (_, id) = server.run(made(&mut client, &world, &["forever"]));
    let output = state.join("web.zfs");
    let error = roots::export(&state, &id, "a", &output, &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(error, format!("snapshot \"a\" of container {} not found", &id[..12]));
    assert!(!output.exists());
    std::fs::write(&output, "no archive at all").unwrap();
    let error = roots::import(&state, "../web", &output).unwrap_err().to_string();
    assert!(error.starts_with("name of an imported root: \"../web\" is not 1 to 64 letters"), "{error}");
    roots::import(&state, "web", &output).unwrap_err();

    // A client that ends half way.
    snapshots::take(&state, &id, "a").unwrap();
    roots::export(&state, &id, "a", &output, &mut Vec::new()).unwrap();
    let archive = std::fs::read(&output).unwrap();
    let first = ImportRootRequest { name: "web".to_owned(), chunk: archive[..archive.len() / 2].to_vec() };
    let endless = futures::stream::iter([first]).chain(futures::stream::pending());
    let call = server.spawn({
        let mut admin = admin.clone();
        async move { admin.import_root(endless).await }
    });
    let imported = world.root(&id).ancestors().nth(3).unwrap().join("imported");
    let wait_until = |what: &str, begun: bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while imported.read_dir().is_ok_and(|entries| entries.count() > 0) != begun {
            assert!(std::time::Instant::now() < deadline, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    wait_until("it begins", true);
    call.abort();
    wait_until("nothing stays", false);
    let refused = server.run(client.run_pod_sandbox(run_pod_from("a/b"))).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("annotations[storage.cellblock/root.main]: \"a/b\" is not"), "{refused}");
    let pod = server.run(client.run_pod_sandbox(run_pod_from("web"))).unwrap().into_inner().pod_sandbox_id;
    let missing = server.run(client.create_container(create(&world, &pod, "copy", "main", &["forever"]))).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(missing.message(), "annotations[storage.cellblock/root.main]: imported root \"web\" not found");
    let mut whole = vec![ImportRootRequest { name: "web".to_owned(), chunk: Vec::new() }];
    whole.extend(archive.chunks(1000).map(|chunk| ImportRootRequest { name: String::new(), chunk: chunk.to_vec() }));
    server.run(admin.import_root(futures::stream::iter(whole))).unwrap();
    server.run(client.create_container(create(&world, &pod, "copy", "main", &["forever"]))).unwrap();
}

#[test]
fn only_root_may_use_the_socket_and_it_goes_with_its_server() {
    let world = World::new();
    let server = world.start();
    let socket = admin_socket(&world.state());
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    server.stop();
    assert!(!socket.exists());
}

#[test]
fn the_commands_ask_the_server_and_name_the_socket_of_one_that_does_not_run() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let state = world.state();
    let mut client = server.client();
    let (_, id) = server.run(made(&mut client, &world, &["forever"]));
    snapshots::take(&state, &id, "a").unwrap();
    let mut out = Vec::new();
    snapshots::list(&state, &id, true, &mut out).unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        (&listed["snapshots"][0]["name"], &listed["snapshots"][0]["containerId"]),
        (&"a".into(), &id.as_str().into())
    );
    assert!(listed["snapshots"][0]["used"].as_u64() > Some(0), "{listed}");
    snapshots::roll_back(&state, &id, "a").unwrap();
    let error = snapshots::take(&state, "zz", "b").unwrap_err().to_string();
    assert_eq!(error, "pod or container \"zz\" not found");
    server.stop();
    let error = snapshots::take(&state, &id, "b").unwrap_err();
    let wanted = format!("no server answers on {}", admin_socket(&state).display());
    assert!(error.to_string().starts_with(&wanted), "{error}");
}
