//! The commands that an administrator types on a node, against a server: `ps`, `root` and `stop-pods`.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Parser;
use cri::{image, ps, root, stop_pods};
use host::fault::Fault;
use proto::v1::*;
use serde_json::Value;

use crate::world::{Running, World, create, made, run_pod};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: ps::Options,
}

fn shown(world: &World, flags: &[&str]) -> String {
    let line = Line::try_parse_from(["ps"].iter().chain(flags)).unwrap();
    let mut out = Vec::new();
    ps::run(&line.options, &world.config(), &mut out, false).unwrap();
    String::from_utf8(out).unwrap()
}

/// The words of each line after the heading, without what changes: CPU, memory, ids.
fn words(text: &str) -> Vec<Vec<String>> {
    let of = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    text.lines().skip(1).map(of).collect()
}

/// Starts a container of this name and command in a pod.
fn start(server: &Running, world: &World, pod: &(String, &str), name: &str, command: &[&str]) -> String {
    let mut client = server.client();
    let request = create(world, &pod.0, pod.1, name, command);
    let container_id = server.run(client.create_container(request)).unwrap().into_inner().container_id;
    let request = StartContainerRequest { container_id: container_id.clone() };
    server.run(client.start_container(request)).unwrap();
    container_id
}

fn found(world: &World, container: &str) -> Result<(String, String), String> {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    root::find(&world.state(), container, &mut out, &mut errors).map_err(|error| error.to_string())?;
    let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    Ok((text(out), text(errors)))
}

#[test]
fn ps_shows_what_runs_with_its_names_in_the_kernel() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let (web, created) = server.run(made(&mut client, &world, &["forever"]));
    let db = server.run(client.run_pod_sandbox(run_pod("db"))).unwrap().into_inner().pod_sandbox_id;
    let store = start(&server, &world, &(db.clone(), "db"), "store", &["forever"]);
    let address = |text: &str| text.split(',').next().unwrap().starts_with("10.20.0.");

    let rows = words(&shown(&world, &[]));
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows.iter().all(|row| row.len() == 8), "{rows:?}");
    assert_eq!(
        (&rows[0][..3], rows[0][6].as_str()),
        (&["default/db", "-", "ready"].map(str::to_owned)[..], &*format!("cb-{}", &db[..12]))
    );
    assert!(address(&rows[0][5]) && rows[0][5].contains(",fd00:20::"), "{rows:?}");
    let jail = format!("cb-{}.{}", &db[..12], &store[..12]);
    assert_eq!((&rows[1][..3], &rows[1][6]), (&["default/db", "store", "running"].map(str::to_owned)[..], &jail));
    assert_eq!(rows[2][..3], ["default/web", "-", "ready"], "a container that was not started is not shown");

    let json: Value = serde_json::from_str(&shown(&world, &["--all", "--json"])).unwrap();
    let pods = json["pods"].as_array().unwrap();
    assert_eq!((&pods[0]["id"], &pods[0]["metadata"]["namespace"]), (&db.as_str().into(), &"default".into()));
    let inside = &pods[0]["containers"][0];
    assert_eq!((&inside["id"], &inside["metadata"]["name"]), (&store.as_str().into(), &"store".into()));
    let number = if std::env::consts::OS == "freebsd" { "jid" } else { "pid" };
    assert!(inside[number].as_u64().is_some() && inside["memoryBytes"].is_null(), "{inside}");
    let other = &pods[1]["containers"][0];
    assert_eq!(
        (&other["id"], &other["state"], &other[number]),
        (&created.as_str().into(), &"created".into(), &Value::Null)
    );

    server.run(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: web })).unwrap();
    assert_eq!(words(&shown(&world, &[])).len(), 2, "a stopped pod is not shown");
    let rows = words(&shown(&world, &["-a"]));
    assert_eq!(rows[2], ["default/web", "-", "not-ready", "-", "-", "-", "-", "-"]);
}

/// Accepts this many writes, and then fails with EPIPE.
struct Reader(Vec<String>, usize);

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() == self.1 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn ps_watches_until_nobody_reads() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(made(&mut client, &world, &["forever"]));
    for (flags, terminal, begins) in [
        (&["--watch"][..], false, ["POD ", "\nPOD "]),
        (&["-w"], true, ["\x1b[H\x1b[JPOD ", "\x1b[H\x1b[JPOD "]),
        (&["-w", "--json"], false, ["{\"pods\":[{", "{\"pods\":[{"]),
    ] {
        let line = Line::try_parse_from(["ps"].iter().chain(flags)).unwrap();
        let mut reader = Reader(Vec::new(), 2);
        ps::run(&line.options, &world.config(), &mut reader, terminal).unwrap();
        for (shown, begin) in reader.0.iter().zip(begins) {
            assert!(shown.starts_with(begin) && shown.ends_with('\n'), "{flags:?}: {shown:?}");
        }
    }
    server.stop();
}

/// A device without room, as /dev/full.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_command_that_cannot_print_names_the_standard_output() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (_, id) = server.run(made(&mut server.client(), &world, &["forever"]));
    let ps = |flag| {
        let line = Line::try_parse_from(["ps", flag]).unwrap();
        ps::run(&line.options, &world.config(), &mut Full, false)
    };
    for (command, outcome) in [
        ("image ls", image::run(&image::Command::Ls, false, &world.config(), &mut Full)),
        ("image ls --json", image::run(&image::Command::Ls, true, &world.config(), &mut Full)),
        ("ps", ps("--all")),
        ("ps --watch", ps("--watch")),
        ("root", root::find(&world.state(), &id, &mut Full, &mut Vec::new())),
        ("stop-pods", stop_pods::run(1, &world.config(), &mut Full)),
    ] {
        let said = outcome.unwrap_err().to_string();
        assert_eq!(said, "cannot write the standard output", "{command}");
    }
    server.stop();
}

#[test]
fn a_root_is_found_by_ids_and_names() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let (web, id) = server.run(made(&mut client, &world, &["forever"]));
    let path = world.root(&id).display().to_string();
    for name in [&id, &id[..13], "default/web/main", "main", "web", "default/web", &web] {
        assert_eq!(found(&world, name), Ok((path.clone(), String::new())), "{name}");
    }
    let db = server.run(client.run_pod_sandbox(run_pod("db"))).unwrap().into_inner().pod_sandbox_id;
    let other = start(&server, &world, &(db.clone(), "db"), "main", &["forever"]);
    start(&server, &world, &(db, "db"), "side", &["forever"]);
    assert_eq!(found(&world, "default/db/main").unwrap().0, world.root(&other).display().to_string());
    for (name, said) in [
        ("main", "may be any of default/db/main ("),
        ("db", "may be any of default/db/main ("),
        ("none", "container \"none\" not found"),
        ("", "container: is empty"),
    ] {
        let error = found(&world, name).unwrap_err();
        assert!(error.contains(said), "{name}: {error}");
    }
    server.run(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: web })).unwrap();
    let (stopped, warning) = found(&world, &id).unwrap();
    assert!(stopped == path && warning.contains("its pod is stopped"), "{warning}");
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = found(&world, &id).unwrap_err();
    assert!(error.contains(&format!("is not mounted on {path}")), "{error}");
}

#[test]
fn a_read_only_root_is_found_with_a_warning() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let web = server.run(client.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
    let mut request = create(&world, &web, "web", "main", &["forever"]);
    let security_context = Some(LinuxContainerSecurityContext { readonly_rootfs: true, ..Default::default() });
    let config = request.config.as_mut().unwrap();
    config.linux = Some(LinuxContainerConfig { security_context, ..LinuxContainerConfig::default() });
    let mut shared = request.clone();
    shared.config.as_mut().unwrap().metadata.as_mut().unwrap().name = "shared".to_owned();
    server.run(client.create_container(shared)).unwrap();
    let error = found(&world, "shared").unwrap_err();
    assert!(error.contains("its read-only root is the unpacked image in /"), "{error}");
    // With a mount point that must be made, the root is the container's own.
    let config = request.config.as_mut().unwrap();
    let host_path = world.state().to_string_lossy().into_owned();
    config.mounts = vec![Mount { host_path, container_path: "/made".to_owned(), ..Mount::default() }];
    let id = server.run(client.create_container(request)).unwrap().into_inner().container_id;
    let (path, warning) = found(&world, "main").unwrap();
    assert_eq!(path, world.root(&id).display().to_string());
    assert!(warning.contains("read-only"), "{warning}");
}

#[test]
fn all_pods_stop_at_the_same_time_each_within_its_grace() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let mut containers = Vec::new();
    for name in ["a", "b", "c"] {
        let id = server.run(client.run_pod_sandbox(run_pod(name))).unwrap().into_inner().pod_sandbox_id;
        containers.push(start(&server, &world, &(id.clone(), name), "polite", &["forever"]));
        containers.push(start(&server, &world, &(id, name), "rude", &["stubborn"]));
    }
    let mut out = Vec::new();
    let begun = Instant::now();
    stop_pods::run(1, &world.config(), &mut out).unwrap();
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}, not one grace");
    assert_eq!(String::from_utf8(out).unwrap(), "6 containers and 3 pods stopped\n");
    for (index, id) in containers.iter().enumerate() {
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
        let status = server.run(client.container_status(request)).unwrap().into_inner().status.unwrap();
        let wanted = if index % 2 == 0 { 128 + 10 } else { 128 + 9 };
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, wanted));
    }
    assert_eq!(world.leftovers(), Vec::<String>::new(), "no pod is left in the kernel");
    // Once more: there is nothing to stop.
    let mut out = Vec::new();
    stop_pods::run(1, &world.config(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "0 containers and 0 pods stopped\n");
}

#[test]
fn a_stop_that_fails_is_told_and_keeps_no_other_from_stopping() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    let stop = || stop_pods::run(1, &world.config(), &mut Vec::new()).map_err(|error| error.to_string());
    // A call that the server makes by itself may take the fault.
    let failed = (0..20).find_map(|attempt| {
        let name = format!("pod{attempt}");
        let pod = server.run(client.run_pod_sandbox(run_pod(&name))).unwrap().into_inner().pod_sandbox_id;
        start(&server, &world, &(pod, &name), "store", &["forever"]);
        world.faults.arm(1, Fault::FailBefore);
        stop().err()
    });
    assert!(failed.as_ref().is_some_and(|error| error.starts_with("cannot stop ")), "{failed:?}");
    world.faults.disarm();
    stop().unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
    server.stop();
    let error = stop().unwrap_err();
    assert!(error.starts_with("no server answers on "), "{error}");
}
