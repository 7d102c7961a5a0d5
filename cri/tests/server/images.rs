//! What an image asks for, what becomes of a missing host path, and what the verbose statuses tell.

use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::*;
use serde_json::Value;
use tonic::Code;

use crate::world::{Running, World, create, run_pod};

/// Pulls another image of the world's repository; its name.
fn pull(server: &Running, world: &World, tag: &str) -> String {
    let name = world.image.replace(":latest", &format!(":{tag}"));
    let image = Some(ImageSpec { image: name.clone(), ..ImageSpec::default() });
    let mut client = ImageServiceClient::new(server.channel());
    server.run(client.pull_image(PullImageRequest { image, ..PullImageRequest::default() })).unwrap();
    name
}

/// Creates a container; its id, and the spec that it was made from.
async fn made(
    server: &Running,
    world: &World,
    change: impl FnOnce(&mut ContainerConfig),
) -> Result<(String, Value), tonic::Status> {
    let mut client = server.client();
    let pod = client.run_pod_sandbox(run_pod("web")).await?.into_inner().pod_sandbox_id;
    let mut request = create(world, &pod, "web", "main", &["forever"]);
    change(request.config.as_mut().unwrap());
    let id = client.create_container(request).await?.into_inner().container_id;
    let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let answer = client.container_status(request).await?.into_inner();
    let info: Value = serde_json::from_str(&answer.info["info"]).unwrap();
    Ok((id, info["runtimeSpec"].clone()))
}

fn named(image: &str) -> impl FnOnce(&mut ContainerConfig) {
    let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    |config| {
        config.image = image;
        config.command.clear();
    }
}

#[test]
fn volumes_of_the_image_are_mounted_and_go_with_the_container() {
    let world = World::new();
    let server = world.start();
    let image = pull(&server, &world, "volumes");
    server.run(async {
        let (id, spec) = made(&server, &world, named(&image)).await.unwrap();
        assert_eq!(spec["process"]["args"], serde_json::json!(["forever"]), "an entry point of one empty word is none");
        let mounts = spec["mounts"].as_array().unwrap();
        let source = |at: usize| mounts[at]["source"]["host"].as_str().unwrap().to_owned();
        assert_eq!(
            (mounts.len(), mounts[0]["destination"].as_str(), mounts[1]["destination"].as_str()),
            (2, Some("/etc"), Some("/not/there"))
        );
        assert!(mounts.iter().all(|mount| mount["readonly"] == false));
        assert_eq!(std::fs::read_to_string(format!("{}/hello", source(0))).unwrap(), "hi\n");
        assert!(std::fs::read_dir(source(1)).unwrap().next().is_none());
        server.client().remove_container(RemoveContainerRequest { container_id: id }).await.unwrap();
        assert!(!std::path::Path::new(&source(0)).exists());
    });
}

#[test]
fn a_volume_that_is_a_file_is_refused_and_leaves_nothing() {
    let world = World::new();
    let server = world.start();
    let image = pull(&server, &world, "file-as-volume");
    server.run(async {
        let refused = made(&server, &world, named(&image)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("\"/etc/hello\": it is no directory"), "{refused}");
    });
    assert!(!world.leftovers().iter().any(|left| left.starts_with("container")), "{:?}", world.leftovers());
}

/// Makes a root read-only.
fn read_only(config: &mut ContainerConfig) {
    let context = LinuxContainerSecurityContext { readonly_rootfs: true, ..Default::default() };
    config.linux = Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() });
}

#[test]
fn a_read_only_root_that_has_every_place_is_the_unpacked_image() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mounted = |at: &str| {
        let (host_path, container_path) = (world.state().to_string_lossy().into_owned(), at.to_owned());
        Mount { host_path, container_path, ..Mount::default() }
    };
    let (id, spec) = server
        .run(made(&server, &world, |config| {
            read_only(config);
            config.mounts = vec![mounted("/etc")];
        }))
        .unwrap();
    let image = std::path::PathBuf::from(spec["rootfs"].as_str().unwrap());
    assert!(spec["shared_rootfs"] == true && !world.root(&id).exists(), "{spec}");
    assert_eq!(std::fs::read_to_string(image.join("etc/hello")).unwrap(), "hi\n");
    let snapshot = proto::admin::SnapshotRequest { target: id.clone(), name: "a".to_owned() };
    let refused = server.run(server.admin().snapshot(snapshot)).unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("whose read-only root is its image itself"), "{refused}");
    server.run(server.client().start_container(StartContainerRequest { container_id: id.clone() })).unwrap();
    let stats = ContainerStatsRequest { container_id: id.clone() };
    let written =
        server.run(server.client().container_stats(stats)).unwrap().into_inner().stats.unwrap().writable_layer;
    let written = written.unwrap();
    assert_eq!((written.used_bytes.unwrap().value, written.inodes_used.unwrap().value), (0, 0));
    // The image goes, what the container runs on stays; also for the next server.
    let spec = Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() });
    let remove = RemoveImageRequest { image: spec };
    server.run(ImageServiceClient::new(server.channel()).remove_image(remove)).unwrap();
    server.kill();
    let server = world.start();
    assert!(image.join("etc/hello").exists());
    server.run(server.client().remove_container(RemoveContainerRequest { container_id: id })).unwrap();
    assert!(!image.exists(), "with its last user it goes");
}

#[test]
fn a_root_that_lacks_a_place_or_is_written_to_is_its_containers_own() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let host_path = world.state().to_string_lossy().into_owned();
    let mount = Mount { host_path, container_path: "/not/there".to_owned(), ..Mount::default() };
    let lacking = |config: &mut ContainerConfig| {
        read_only(config);
        config.mounts = vec![mount];
    };
    let (lacking, _) = server.run(made(&server, &world, lacking)).unwrap();
    assert!(world.root(&lacking).is_dir());
    // Each makes a pod of one name.
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let (written, spec) = server.run(made(&server, &world, |_| ())).unwrap();
    assert!(world.root(&written).is_dir() && spec["shared_rootfs"] == false);
}

#[test]
fn a_missing_host_path_is_made_or_refused_as_configured() {
    for policy in [cri::MissingHostPath::Create, cri::MissingHostPath::Refuse] {
        let mut world = World::new();
        world.missing_host_path = policy;
        let server = world.start();
        server.pull(&world);
        let path = world.state().join("host/path");
        let mount = Mount {
            host_path: path.to_string_lossy().into_owned(),
            container_path: "/data".to_owned(),
            ..Mount::default()
        };
        let made = server.run(made(&server, &world, |config| config.mounts = vec![mount]));
        match policy {
            cri::MissingHostPath::Create => {
                made.unwrap();
                assert!(path.is_dir());
            }
            cri::MissingHostPath::Refuse => {
                let refused = made.unwrap_err();
                assert!(refused.message().contains(&*path.to_string_lossy()), "{refused}");
                assert!(!path.exists());
            }
        }
    }
}

#[test]
fn a_mounted_image_is_told_by_its_id() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let spec = Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() });
    let mount = Mount { container_path: "/volume".to_owned(), image: spec.clone(), readonly: true, ..Mount::default() };
    let (id, _) = server.run(made(&server, &world, |config| config.mounts = vec![mount])).unwrap();
    let status = ContainerStatusRequest { container_id: id, verbose: false };
    let status = server.run(server.client().container_status(status)).unwrap().into_inner().status.unwrap();
    let mut client = ImageServiceClient::new(server.channel());
    let image =
        server.run(client.image_status(ImageStatusRequest { image: spec, verbose: false })).unwrap().into_inner();
    assert_eq!(status.mounts[0].image.as_ref().unwrap().image_ref, image.image.unwrap().id);
}

#[test]
fn the_verbose_status_of_an_image_has_its_whole_configuration() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = ImageServiceClient::new(server.channel());
    let image = Some(ImageSpec { image: world.image.clone(), ..ImageSpec::default() });
    let answer = server.run(client.image_status(ImageStatusRequest { image, verbose: true })).unwrap().into_inner();
    let info: Value = serde_json::from_str(&answer.info["info"]).unwrap();
    let spec = &info["imageSpec"];
    assert_eq!((spec["os"].as_str(), spec["config"]["Cmd"][0].as_str()), (Some("linux"), Some("forever")));
    assert_eq!(spec["history"][0]["created_by"], "testimage");
    assert_eq!(spec["created"], "2023-11-14T22:13:20Z");
    assert_eq!(info["chainIDs"][0], info["chainID"]);
    assert_eq!(spec["rootfs"]["diff_ids"][0], info["chainID"], "one layer's chain ID is its diff ID");
}

#[test]
fn a_registry_that_does_not_serve_is_told_in_kubelets_words() {
    let world = World::new();
    let server = world.start();
    let mut client = ImageServiceClient::new(server.channel());
    let mut pull = |name: &str| {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        server.run(client.pull_image(PullImageRequest { image, ..PullImageRequest::default() })).unwrap_err()
    };
    let refused = pull("127.0.0.1:1/team/tool:1");
    assert_eq!(refused.code(), Code::Unknown, "kubelet takes the code off this one alone");
    assert!(refused.message().starts_with("RegistryUnavailable: cannot reach registry 127.0.0.1:1"), "{refused}");
    assert_eq!(pull(&world.image.replace("latest", "none")).code(), Code::NotFound);
}
