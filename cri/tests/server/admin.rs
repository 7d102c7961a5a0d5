//! The admin service: snapshots over its socket, refusals in gRPC's codes, and the commands that are its clients.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use cri::{admin_socket, snapshots};
use proto::admin::*;
use proto::v1::*;
use tonic::Code;

use crate::world::{World, made};

fn snapshot(container_id: &str, name: &str) -> SnapshotRequest {
    SnapshotRequest { container_id: container_id.to_owned(), name: name.to_owned() }
}

fn rollback(container_id: &str, name: &str) -> RollbackRequest {
    RollbackRequest { container_id: container_id.to_owned(), name: name.to_owned() }
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
    let request = ListSnapshotsRequest { container_id: id.clone() };
    let names = server.run(admin.list_snapshots(request.clone())).unwrap().into_inner().names;
    assert_eq!(names, ["a", "b", "c"], "oldest first");
    server.run(admin.rollback(rollback(&id, "b"))).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "b");
    let names = server.run(admin.list_snapshots(request)).unwrap().into_inner().names;
    assert_eq!(names, ["a", "b"], "later ones are gone");
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
    assert_eq!(snapshots::list(&state, &id).unwrap(), ["a"]);
    snapshots::roll_back(&state, &id, "a").unwrap();
    assert_eq!(snapshots::list(&state, "zz").unwrap_err().to_string(), "container \"zz\" not found");
    server.stop();
    let error = snapshots::list(&state, &id).unwrap_err();
    let wanted = format!("no server answers on {}", admin_socket(&state).display());
    assert!(error.to_string().starts_with(&wanted), "{error}");
}
