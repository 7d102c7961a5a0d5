//! Archives of images: what is exported is imported again as the same image, docker's old form and FreeBSD's are read, and what is
//! cut off, false or hostile is refused and leaves nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::io::{self, Cursor, Read, Write};
use std::sync::mpsc;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use host::ContainerId;
use image::{Digest, Error, Image, Images};
use serde_json::{Value, json};
use support::{Content, Store, content, layer, serve};
use testimage::{Compression, Config, Layer, Tree};

/// An archive of these files; None: a link to the other file.
fn archive(files: &[(String, Result<Vec<u8>, String>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match contents {
            Ok(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
            }
            Err(target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn file(path: &str, contents: impl Into<Vec<u8>>) -> (String, Result<Vec<u8>, String>) {
    (path.to_owned(), Ok(contents.into()))
}

fn blob(bytes: &[u8]) -> (String, Result<Vec<u8>, String>) {
    file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes)
}

/// An OCI image layout as FreeBSD's release/scripts/make-oci-image.sh writes it.
fn layout(image: &testimage::Image, name: &str) -> Vec<(String, Result<Vec<u8>, String>)> {
    let mut entry = image.manifest.descriptor();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let blobs = image.blobs.iter().chain([&image.manifest]).map(|found| blob(&found.bytes));
    let described =
        [file("./oci-layout", r#"{"imageLayoutVersion": "1.0.0"}"#), file("./index.json", index.to_string())];
    described.into_iter().chain(blobs).collect()
}

fn tool() -> testimage::Image {
    let layers = [Tree::default().file("a", "1").layer().unwrap(), Tree::default().file("b", "2").layer().unwrap()];
    testimage::Image::new(&layers, &Config { cmd: vec!["a"], architecture: "amd64", ..Config::default() })
}

async fn import(images: &Images, bytes: Vec<u8>, name: Option<&str>) -> Result<Vec<Image>, Error> {
    images.import(Cursor::new(bytes), name.map(str::to_owned)).await
}

fn export(images: &Images, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut bytes = Vec::new();
    images.export(&names, &mut bytes).unwrap();
    bytes
}

fn read(images: &Images, image: &Image, path: &str) -> String {
    let id = ContainerId::random();
    let root = images.prepare(&id, &image.id).unwrap();
    let text = std::fs::read_to_string(root.join(path)).unwrap();
    images.discard(&id).unwrap();
    text
}

/// The file of an archive.
fn find(archive: &[u8], path: &str) -> Vec<u8> {
    let mut tar = tar::Archive::new(archive);
    let mut found =
        tar.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().to_str() == Some(path));
    let mut bytes = Vec::new();
    found.as_mut().unwrap_or_else(|| panic!("no {path}")).read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn what_is_exported_is_imported_as_the_same_image() {
    let registry = serve(content()).await;
    let (from, to) = (Store::new(), Store::new());
    let name = format!("{}/team/tool", registry.address);
    let pulled = from.images.pull(&format!("{name}:1"), None).await.unwrap();
    from.images.pull(&format!("{name}:2"), None).await.unwrap();
    let bytes = export(&from.images, &[&format!("{name}:1"), &pulled.repo_digests[0]]);
    assert_eq!(bytes, export(&from.images, &[&pulled.repo_digests[0], &format!("{name}:1")]), "equal bytes");

    let requests = registry.seen().len();
    let imported = import(&to.images, bytes.clone(), None).await.unwrap();
    assert_eq!(imported, std::slice::from_ref(&pulled), "one image, with the names that were exported");
    assert_eq!(read(&to.images, &imported[0], "a/three"), "3");
    assert_eq!(registry.seen().len(), requests, "no registry is asked");
    assert_eq!(import(&to.images, bytes, None).await.unwrap(), imported, "again");
    assert_eq!(
        export(&to.images, &[&pulled.id[..20]]),
        export(&from.images, &[&format!("{name}:1")]),
        "by the id: all tags"
    );
    to.images.remove(&pulled.id).unwrap();
    to.wait_until_empty().await;
}

#[tokio::test]
async fn an_archive_is_what_docker_and_the_oci_say() {
    let store = Store::new();
    let image = tool();
    import(&store.images, archive(&layout(&image, "team/tool:1")), None).await.unwrap();
    let bytes = export(&store.images, &["team/tool:1"]);
    let index: Value = serde_json::from_slice(&find(&bytes, "index.json")).unwrap();
    assert_eq!(find(&bytes, "oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    let entry = &index["manifests"][0];
    assert_eq!(
        (entry["digest"].as_str(), entry["size"].as_u64()),
        (Some(image.manifest.digest.as_str()), Some(image.manifest.bytes.len() as u64))
    );
    assert_eq!(entry["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/team/tool:1");
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
    let docker: Value = serde_json::from_slice(&find(&bytes, "manifest.json")).unwrap();
    assert_eq!(docker[0]["RepoTags"], json!(["docker.io/team/tool:1"]));
    let config = docker[0]["Config"].as_str().unwrap();
    assert_eq!(Digest::of(&find(&bytes, config)).to_string(), store.images.list()[0].id);
    let layers = docker[0]["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for path in layers.iter().map(|path| path.as_str().unwrap()) {
        assert_eq!(Digest::of(&find(&bytes, path)).hex(), path.rsplit('/').next().unwrap());
    }
}

#[tokio::test]
async fn what_others_write_is_read() {
    let image = tool();
    let (config, layers) = image.blobs.split_first().unwrap();
    let plain = Tree::default().file("a", "1").tar().unwrap();
    let old_config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [
        Digest::of(&plain).as_str(), Digest::of(&plain).as_str()]}});
    // As docker save wrote before its release 25: a layer that is there already is a link, and the description comes last.
    let old = [
        file("1/layer.tar", plain),
        file("1/json", "{}"),
        file("1/VERSION", "1.0"),
        ("2/layer.tar".to_owned(), Err("../1/layer.tar".to_owned())),
        file("c.json", old_config.to_string()),
        file("repositories", "{}"),
        file(
            "manifest.json",
            json!([{"Config": "c.json", "RepoTags": ["team/tool:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}])
                .to_string(),
        ),
    ];
    // As skopeo and podman write a docker-archive.
    let podman = [
        file("l1.tar", layers[0].bytes.to_vec()),
        file("l2.tar", layers[1].bytes.to_vec()),
        file("c.json", config.bytes.to_vec()),
        file(
            "manifest.json",
            json!([{"Config": "c.json", "RepoTags": ["team/tool:1"], "Layers": ["l1.tar", "l2.tar"]}]).to_string(),
        ),
    ];
    let mut gzip = GzEncoder::new(Vec::new(), Level::fast());
    gzip.write_all(&archive(&layout(&image, "team/tool:1"))).unwrap();
    for (name, bytes) in [
        ("docker", archive(&old)),
        ("podman", archive(&podman)),
        ("FreeBSD", archive(&layout(&image, "team/tool:1"))),
        ("gzip", gzip.finish().unwrap()),
    ] {
        let store = Store::new();
        let imported = import(&store.images, bytes, None).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(imported[0].repo_tags, ["docker.io/team/tool:1"], "{name}");
        assert_eq!(imported[0].repo_digests.len(), 1, "{name}");
        assert_eq!(read(&store.images, &imported[0], "a"), "1", "{name}");
        let size = export(&store.images, &["team/tool:1"]).len() as u64;
        assert!(imported[0].size > 0 && imported[0].size < size, "{name}");
        store.images.remove(&imported[0].id).unwrap();
        assert!(store.leftovers().is_empty(), "{name}: {:?}", store.leftovers());
    }
}

#[tokio::test]
async fn an_image_gets_the_name_that_is_wanted() {
    let store = Store::new();
    let nameless = archive(&layout(&tool(), "latest"));
    let error = import(&store.images, nameless.clone(), None).await.unwrap_err();
    assert!(error.to_string().contains("has no name: import it with --name NAME"), "{error}");
    let error = import(&store.images, nameless.clone(), Some("Bad Name")).await.unwrap_err();
    assert!(error.to_string().contains("\"Bad Name\""), "{error}");
    let imported = import(&store.images, nameless, Some("own:2")).await.unwrap();
    assert_eq!(imported[0].repo_tags, ["docker.io/library/own:2"]);
}

#[tokio::test]
async fn what_is_false_or_cut_off_is_refused_and_nothing_stays() {
    let image = tool();
    let whole = layout(&image, "team/tool:1");
    let without = |at: usize| {
        let mut files = whole.clone();
        drop(files.remove(at));
        archive(&files)
    };
    let mut corrupt = whole.clone();
    corrupt[3].1.as_mut().unwrap()[20] ^= 1;
    let other = testimage::Image::new(
        &[Tree::default().file("a", "1").layer().unwrap()],
        &Config { os: "freebsd", architecture: "arm64", ..Config::default() },
    );
    let lying_layer = Layer::new(&layer(&[("a", "a")]), Compression::Gzip).unwrap();
    let lying = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x").as_str()]}});
    let lying = testimage::Image::with_document(&[lying_layer], &lying);
    let mut two = layout(&tool(), "a:1");
    let mut second = layout(&lying, "b:1").split_off(2);
    let entries: Vec<Value> = [(&tool(), "a:1"), (&lying, "b:1")]
        .map(|(image, name)| {
            let mut entry = image.manifest.descriptor();
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            entry
        })
        .to_vec();
    two[1] = file("index.json", json!({"schemaVersion": 2, "manifests": entries}).to_string());
    two.append(&mut second);
    let cut = archive(&whole);
    let table = [
        (b"no archive ".repeat(100), "not a tar archive"),
        (Vec::new(), "neither oci-layout"),
        (cut[..cut.len() / 2].to_vec(), "ends in the middle"),
        (cut[..1536].to_vec(), "ends in the middle"),
        (without(0), "neither oci-layout"),
        (without(2), "it lacks sha256:"),
        (without(3), "it lacks sha256:"),
        (without(5), "it lacks sha256:"),
        (archive(&corrupt), "its contents have the digest"),
        (archive(&layout(&other, "a:1")), "offers freebsd/arm64, wanted linux/amd64"),
        (archive(&layout(&lying, "a:1")), "its image says"),
        (archive(&two), "its image says"),
        (archive(&[file("index.json", vec![b' '; 5 << 20])]), "at most 4194304"),
        (archive(&[file("blobs/sha256/a/b", "x")]), "\"sha256:a/b\""),
        (archive(&[file("blobs/sha256/nothing", "x")]), "\"sha256:nothing\""),
        (b"\xfd7zXZ\0rest".to_vec(), "xz -dc"),
        (b"\x28\xb5\x2f\xfdrest".to_vec(), "zstd -dc"),
    ];
    for (bytes, reason) in table {
        let store = Store::new();
        let error = import(&store.images, bytes, None).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error} lacks {reason}");
        store.wait_until_empty().await;
        assert!(store.images.list().is_empty(), "{reason}: all images or none");
    }
}

/// The bytes that a test sends; an error when it breaks off.
struct Sent(mpsc::Receiver<u8>);

impl Read for Sent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer[0] = self.0.recv().map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
        Ok(1)
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_leaves_nothing() {
    let bytes = archive(&layout(&tool(), "team/tool:1"));
    for cut in [0, 600, bytes.len() / 2, bytes.len() - 1025] {
        let store = Store::new();
        let (sender, sent) = mpsc::channel();
        bytes[..cut].iter().for_each(|byte| sender.send(*byte).unwrap());
        let images = store.images.clone();
        let importing = tokio::spawn(async move { images.import(Sent(sent), None).await });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        drop(sender);
        assert!(importing.await.unwrap().is_err(), "{cut}");
        store.wait_until_empty().await;
    }
}

#[tokio::test]
async fn what_a_killed_server_left_of_an_import_goes_at_the_next_start() {
    let mut store = Store::new();
    let left = store.directory.path().join("root/import/0");
    std::fs::write(&left, "half").unwrap();
    let blob = store.directory.path().join("root/blobs/sha256").join(Digest::of(b"whole").hex());
    std::fs::write(&blob, "whole").unwrap();
    store.reopen();
    assert!(!left.exists() && !blob.exists());
}

#[tokio::test]
async fn an_export_names_what_it_cannot_find() {
    let store = Store::new();
    for (names, reason) in [(vec!["a:1".to_owned()], "image \"a:1\" not found"), (vec![], "none is named")] {
        let error = store.images.export(&names, io::sink()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn an_image_with_its_layer_in_several_compressions_is_exported_under_each_name() {
    let tar = layer(&[("a", "a")]);
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar).as_str()]},
    });
    let mut content = Content::default();
    let compressions = ["gzip", "zstd", ""];
    for name in compressions {
        let manifest = content.image_with(&config, &[(tar.clone(), name)]);
        content.tag(&format!("t{name}"), &manifest);
    }
    let registry = serve(content).await;
    let name = |compression: &str| format!("{}/t:t{compression}", registry.address);
    let (mut store, other) = (Store::new(), Store::new());
    for compression in compressions {
        store.images.pull(&name(compression), None).await.unwrap();
    }
    store.images.collect();
    let names = compressions.map(name);
    let exported = export(&store.images, &names.each_ref().map(String::as_str));
    other.images.import(Cursor::new(exported), None).await.unwrap();
    for compression in compressions {
        assert!(other.images.find(&name(compression)).unwrap().is_some(), "{compression}");
    }
    // An earlier server recorded the layers of the last manifest only.
    let records = store.directory.path().join("root/images.json");
    let mut stored: Value = serde_json::from_slice(&std::fs::read(&records).unwrap()).unwrap();
    assert!(stored["images"][0].as_object_mut().unwrap().remove("others").is_some());
    std::fs::write(&records, stored.to_string()).unwrap();
    store.reopen();
    store.images.collect();
    export(&store.images, &[&name("")]);
    store.images.remove(&name("gzip")).unwrap();
    store.wait_until_empty().await;
}

#[tokio::test]
async fn an_import_replaces_a_stored_blob_that_was_cut_off() {
    let (store, image) = (Store::new(), tool());
    let archive = archive(&layout(&image, "registry.example/tool:1"));
    import(&store.images, archive.clone(), None).await.unwrap();
    let layer = &image.blobs[1];
    let path = store.directory.path().join("root/blobs/sha256").join(layer.digest.strip_prefix("sha256:").unwrap());
    std::fs::write(&path, "cut off").unwrap();
    import(&store.images, archive, None).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), layer.bytes);
}
