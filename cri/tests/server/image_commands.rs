//! `cellblock image` against a server: its results as text and as JSON, what goes over the admin socket and breaks off, and what a
//! prune keeps.

use std::path::{Path, PathBuf};

use clap::Parser;
use proto::admin::*;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::{ContainerConfig, ImageSpec, ListImagesRequest, Mount, PullImageRequest};
use serde_json::Value;
use tonic::Code;

use crate::world::{Running, World, create, made, run_pod};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: cri::image::Command,
}

/// Runs a command line; its output.
fn run(world: &World, line: &[&str], json: bool) -> anyhow::Result<String> {
    let words = ["image"].iter().chain(line);
    let mut out = Vec::new();
    let parsed = Line::try_parse_from(words)?;
    cri::image::run(&parsed.command, json, &world.config(), &mut out)?;
    Ok(String::from_utf8(out)?)
}

fn text(world: &World, line: &[&str]) -> String {
    run(world, line, false).unwrap_or_else(|error| panic!("{line:?}: {error:#}"))
}

fn json(world: &World, line: &[&str]) -> Value {
    serde_json::from_str(&run(world, line, true).unwrap_or_else(|error| panic!("{line:?}: {error:#}"))).unwrap()
}

fn other(world: &World, tag: &str) -> String {
    world.image.replace("latest", tag)
}

/// Exports an image; the archive.
fn exported(world: &World, image: &str) -> PathBuf {
    let file = world.state().join("archive.tar");
    text(world, &["export", image, "--output", file.to_str().unwrap()]);
    file
}

/// The messages of an import.
fn messages(archive: &[u8], name: &str) -> Vec<ImportImagesRequest> {
    let mut messages: Vec<_> =
        archive.chunks(1000).map(|chunk| ImportImagesRequest { name: String::new(), chunk: chunk.to_vec() }).collect();
    messages.insert(0, ImportImagesRequest { name: name.to_owned(), chunk: Vec::new() });
    messages
}

#[test]
fn images_are_pulled_listed_inspected_exported_removed_and_imported() {
    let world = World::new();
    let server = world.start();
    let image = world.image.as_str();
    assert_eq!(text(&world, &["ls"]), "IMAGE  TAG  ID  SIZE\n");
    let pulled = json(&world, &["pull", image]);
    let id = pulled["image"]["id"].as_str().unwrap().to_owned();
    assert_eq!(pulled["image"]["repoTags"][0], image);
    let listed = text(&world, &["ls"]);
    assert!(listed.contains(&id["sha256:".len()..][..13]) && listed.contains("latest"), "{listed}");
    assert_eq!(json(&world, &["list"])["images"][0]["id"], id);
    let shown = text(&world, &["inspect", &id[7..15]]);
    assert!(shown.contains(&format!("id           {id}")) && shown.contains("cmd          forever"), "{shown}");
    let inspected = json(&world, &["inspect", image]);
    assert_eq!(inspected["config"]["config"]["Cmd"][0], "forever");
    assert_eq!(inspected["chainIDs"].as_array().map(Vec::len), Some(1));

    let archive = exported(&world, image);
    let file = archive.to_str().unwrap();
    assert_eq!(text(&world, &["rm", image]).trim(), id);
    assert!(json(&world, &["ls"])["images"].as_array().unwrap().is_empty());
    assert_eq!(text(&world, &["import", file]).trim(), image);
    assert_eq!(json(&world, &["inspect", image])["id"], id);
    let named = json(&world, &["import", file, "--name", "own:2"])["images"][0]["repoTags"].clone();
    assert!(named.as_array().unwrap().contains(&"docker.io/library/own:2".into()), "{named}");
    assert_eq!(json(&world, &["rm", image])["removed"][0]["id"], id);
    server.stop();
}

#[test]
fn what_cannot_be_done_is_said_with_its_field_and_value() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let missing = world.state().join("none/archive.tar");
    let not_archive = world.state().join("text");
    std::fs::write(&not_archive, "no archive").unwrap();
    let (missing, not_archive) = (missing.to_str().unwrap(), not_archive.to_str().unwrap());
    for (line, reason) in [
        (vec!["pull", "Not/A Name"], "image reference: \"Not/A Name\""),
        (vec!["pull", ""], "image: is missing"),
        (vec!["inspect", "none:1"], "image \"none:1\" not found"),
        (vec!["rm", "none:1", "none:2"], "image \"none:1\" not found; image \"none:2\" not found"),
        (vec!["import", missing], missing),
        (vec!["import", not_archive], "archive: it ends in the middle"),
        (vec!["import", not_archive, "--name", "Bad Name"], "\"Bad Name\""),
        (vec!["export", "none:1", "-o", not_archive], "image \"none:1\" not found"),
        (vec!["export", &world.image, "-o", missing], missing),
        (vec!["pull", "--username", "me", "x"], "--password-stdin"),
        (vec!["rm"], "<IMAGES>"),
    ] {
        let error = run(&world, &line, false).unwrap_err();
        let said = host::chain(error.as_ref());
        assert!(said.contains(reason), "{line:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(not_archive).unwrap(), "no archive", "an export that is refused writes nothing");
    server.stop();
    let error = run(&world, &["ls"], false).unwrap_err();
    assert!(error.to_string().starts_with("no server answers on"), "{error}");
}

#[test]
fn an_image_is_removed_once_by_any_number_of_its_names() {
    let world = World::new();
    let server = world.start();
    let image = world.image.as_str();
    let id = json(&world, &["pull", image])["image"]["id"].as_str().unwrap().to_owned();
    let archive = exported(&world, image);
    text(&world, &["import", archive.to_str().unwrap(), "--name", "own:2"]);
    assert_eq!(text(&world, &["rm", image, "own:2", &id, image]), format!("{id}\n"));

    // A name that does not exist keeps nothing else from its removal, wherever it stands.
    text(&world, &["import", archive.to_str().unwrap(), "--name", "own:2"]);
    let error = run(&world, &["rm", "none:1", "own:2"], false).unwrap_err();
    assert_eq!(error.to_string(), "image \"none:1\" not found");
    assert!(json(&world, &["ls"])["images"].as_array().unwrap().is_empty());
    server.stop();
}

/// Waits until nothing of an import is left.
fn wait_until_clean(world: &World) {
    let left = |part: &str| std::fs::read_dir(world.images().join(part)).unwrap().count();
    let deadline = std::time::Instant::now() + crate::world::PATIENCE;
    while left("import") + left("blobs/sha256") > 0 {
        assert!(std::time::Instant::now() < deadline, "{} and {} files stay", left("import"), left("blobs/sha256"));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_import_that_breaks_off_leaves_nothing_and_can_be_repeated() {
    let world = World::new();
    let server = world.start();
    text(&world, &["pull", &world.image]);
    let archive = std::fs::read(exported(&world, &world.image)).unwrap();
    text(&world, &["rm", &world.image]);
    let mut admin = server.admin();
    for sent in [1, archive.len() / 2000, archive.len() / 1000] {
        // The client goes away in the middle: its stream does not end, its call is dropped.
        let first: Vec<_> = messages(&archive, "").into_iter().take(sent).collect();
        let endless = futures::StreamExt::chain(futures::stream::iter(first), futures::stream::pending());
        server.run(async {
            let call = admin.import_images(endless);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(200), call).await.is_err());
        });
        wait_until_clean(&world);
    }
    // An archive that is cut off says so.
    let half = messages(&archive[..archive.len() / 2], "");
    let status = server.run(admin.import_images(futures::stream::iter(half))).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    wait_until_clean(&world);
    // A server that dies in the middle leaves nothing to the next one.
    let begun = messages(&archive, "").into_iter().take(3);
    let endless = futures::StreamExt::chain(futures::stream::iter(begun), futures::stream::pending());
    server.run(async {
        let call = tokio::spawn(async move { admin.import_images(endless).await });
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        drop(call);
    });
    server.kill();
    let server = world.start();
    wait_until_clean(&world);
    let whole = futures::stream::iter(messages(&archive, ""));
    let imported = server.run(server.admin().import_images(whole)).unwrap().into_inner();
    assert_eq!(imported.images[0].repo_tags, std::slice::from_ref(&world.image));
}

#[test]
fn a_pull_tells_of_its_layers_and_ends_with_the_image() {
    let world = World::new();
    let server = world.start();
    let request = PullWithProgressRequest { image: world.image.clone(), ..PullWithProgressRequest::default() };
    let told = server.run(async {
        let mut messages = server.admin().pull_with_progress(request).await.unwrap().into_inner();
        let mut told = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            told.push(message);
        }
        told
    });
    let (last, layers) = told.split_last().unwrap();
    assert_eq!(last.image.as_ref().unwrap().repo_tags, std::slice::from_ref(&world.image));
    let layers: Vec<_> = layers.iter().map(|message| message.layer.clone().unwrap()).collect();
    let end = layers.last().unwrap();
    assert!(end.phase() == LayerPhase::Complete && end.done == end.total && end.total > 0, "{layers:?}");
    let request = PullWithProgressRequest { image: other(&world, "none"), ..PullWithProgressRequest::default() };
    let status = server.run(async {
        let mut messages = server.admin().pull_with_progress(request).await.unwrap().into_inner();
        messages.message().await.unwrap_err()
    });
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

/// Runs a command line, kills the server when the command is under way, and returns what the command says.
fn said_of_a_killed_server(world: &World, server: Running, line: &[&str], under_way: impl FnOnce()) -> String {
    std::thread::scope(|scope| {
        let command = scope.spawn(|| run(world, line, false).unwrap_err());
        under_way();
        server.kill();
        host::chain(command.join().unwrap().as_ref())
    })
}

#[test]
fn a_connection_that_breaks_is_said_once() {
    let world = World::new();
    // A registry that accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    world.trust(address);
    let image = format!("{address}/team/tool:1");
    let mut connections = Vec::new();
    let asked = || connections.push(silent.accept().unwrap());
    let pull = said_of_a_killed_server(&world, world.start(), &["pull", &image], asked);

    let pipe = world.state().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut writers = Vec::new();
    let begun = || {
        // Opens when the command reads. The file has no end, so the call lasts until the server's.
        writers.push(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    let import = said_of_a_killed_server(&world, world.start(), &["import", pipe.to_str().unwrap()], begun);

    for said in [pull, import] {
        let reason = said.strip_prefix("the connection to the server broke: ");
        assert!(reason.is_some_and(|reason| !reason.is_empty() && !reason.contains(": ")), "{said}");
    }
}

fn pull(server: &Running, name: &str) {
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let mut client = ImageServiceClient::new(server.channel());
    server.run(client.pull_image(PullImageRequest { image, ..PullImageRequest::default() })).unwrap();
}

#[test]
fn a_prune_keeps_what_containers_use_and_what_is_pinned() {
    let mut world = World::new();
    world.pinned = vec![other(&world, "file-as-volume")];
    let server = world.start();
    for tag in ["latest", "volumes", "file-as-volume"] {
        pull(&server, &other(&world, tag));
    }
    let mut client = ImageServiceClient::new(server.channel());
    let listed = server.run(client.list_images(ListImagesRequest::default())).unwrap().into_inner().images;
    let pinned: Vec<_> = listed.iter().filter(|image| image.pinned).flat_map(|image| &image.repo_tags).collect();
    assert_eq!(pinned, [&other(&world, "file-as-volume")], "kubelet is told too");

    // `latest` is a container's root, `volumes` a volume of it.
    let mut runtime = server.client();
    let pod = server.run(runtime.run_pod_sandbox(run_pod("web"))).unwrap().into_inner().pod_sandbox_id;
    let mut request = create(&world, &pod, "web", "main", &["forever"]);
    let config: &mut ContainerConfig = request.config.as_mut().unwrap();
    config.mounts = vec![Mount {
        image: Some(ImageSpec { image: other(&world, "volumes"), ..ImageSpec::default() }),
        container_path: "/volume".to_owned(),
        readonly: true,
        ..Mount::default()
    }];
    server.run(runtime.create_container(request)).unwrap();
    assert_eq!(text(&world, &["prune", "--dry-run"]), "would remove nothing\n");
    assert_eq!(text(&world, &["prune"]), "0 B freed\n");
    assert_eq!(json(&world, &["ls"])["images"].as_array().unwrap().len(), 3);

    let stop = proto::v1::RemovePodSandboxRequest { pod_sandbox_id: pod };
    server.run(runtime.remove_pod_sandbox(stop)).unwrap();
    let dry = json(&world, &["prune", "--dry-run"]);
    assert_eq!((dry["removed"].as_array().map(Vec::len), dry["dryRun"].as_bool()), (Some(2), Some(true)));
    assert_eq!(dry.get("freed"), Some(&Value::Null), "what it would free is not known");
    let mut would = ["latest", "volumes"].map(|tag| format!("would remove {}", other(&world, tag)));
    would.sort();
    let said = text(&world, &["prune", "--dry-run"]);
    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, would);
    assert_eq!(json(&world, &["ls"])["images"].as_array().unwrap().len(), 3);
    let pruned = json(&world, &["prune"]);
    assert_eq!(pruned["removed"].as_array().map(Vec::len), Some(2));
    assert!(pruned["freed"].as_u64().unwrap() > 0);
    assert_eq!(json(&world, &["ls"])["images"][0]["repoTags"][0], other(&world, "file-as-volume"));
}

#[test]
fn an_export_that_fails_leaves_what_was_there() {
    let world = World::new();
    let server = world.start();
    pull(&server, &world.image);
    let mut client = server.client();
    drop(server.run(made(&mut client, &world, &["forever"])));
    // The layer's blob is gone from the disk.
    let blobs = world.images().join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest).unwrap();
    let file = world.state().join("kept.tar");
    std::fs::write(&file, "before").unwrap();
    let error = run(&world, &["export", &world.image, "-o", file.to_str().unwrap()], false).unwrap_err();
    let said = host::chain(error.as_ref());
    assert!(said.contains("not found") && !said.contains("cannot write"), "the file is not at fault: {said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");
    let left: Vec<_> =
        std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| Path::new(name).to_string_lossy().starts_with(".kept")), "{left:?}");
}
