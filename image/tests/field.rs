//! Images and registries as the field has them (docs/field-cases.md): small hand-made ones, pulled from a registry on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::path::Path;

use host::ContainerId;
use image::{Algorithm, Digest, Error, Image};
use serde_json::{Value, json};
use support::{Content, Registry, Reply, Store, content, layer, serve};
use testimage::{Compression, Layer};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Documents that are put together piece by piece.
#[derive(Default)]
struct Odd(Content);

impl Odd {
    /// Adds bytes under their digest, and returns their descriptor.
    fn blob(&mut self, media_type: &str, bytes: &[u8], algorithm: Algorithm) -> Value {
        let digest = algorithm.digest(bytes).to_string();
        self.0.by_name.insert(digest.clone(), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn document(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes(), Algorithm::Sha256)
    }

    fn config(&mut self, document: &Value) -> Value {
        self.document("application/vnd.oci.image.config.v1+json", document)
    }

    /// Adds an image of one layer with this descriptor, and names it.
    fn image(&mut self, tag: &str, config: &Value, layer: &Value) -> Value {
        let config = self.config(config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let manifest = self.document(MANIFEST, &manifest);
        self.0.tag(tag, &manifest);
        manifest
    }
}

fn tar() -> Vec<u8> {
    layer(&[("a", "x")])
}

fn gzip() -> Vec<u8> {
    Layer::new(&tar(), Compression::Gzip).unwrap().blob.bytes.to_vec()
}

/// A configuration for this archive.
fn config_of(diff_id: &str) -> Value {
    json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
}

fn usual() -> Value {
    config_of(Digest::of(&tar()).as_str())
}

async fn pull(store: &Store, registry: &Registry, tag: &str) -> Result<Image, Error> {
    store.images.pull(&format!("{}/t:{tag}", registry.address), None).await
}

/// Pulls it, and reads its file in a container's root and in an image volume.
async fn works(content: Content, tag: &str) -> Image {
    let registry = serve(content).await;
    let store = Store::new();
    let image = pull(&store, &registry, tag).await.unwrap_or_else(|error| panic!("{tag}: {}", host::chain(&error)));
    let id = ContainerId::random();
    let root = store.images.prepare(&id, &image.id).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "x", "{tag}");
    let volume = store.images.volume(&id, &image.id, "").unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "x", "{tag}");
    store.images.discard(&id).unwrap();
    store.images.remove(&image.id).unwrap();
    store.wait_until_empty().await;
    image
}

#[tokio::test]
async fn a_configuration_without_a_platform_is_the_nodes() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    for (tag, field) in [("no-os", "os"), ("no-architecture", "architecture")] {
        let mut config = usual();
        config.as_object_mut().unwrap().remove(field);
        odd.image(tag, &config, &layer);
        let image = works(odd.0.clone(), tag).await;
        assert_eq!((image.config.os.as_str(), image.config.architecture.as_str()), ("linux", "amd64"));
    }
    // An index says more than its image's configuration.
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar()).as_str()]}});
    let manifest = odd.image("inner", &config, &layer);
    let index = odd.0.index(&[("linux/386", manifest)]);
    odd.0.tag("index", &index);
    assert_eq!(works(odd.0, "index").await.config.architecture, "386");
}

#[tokio::test]
async fn what_is_null_is_empty() {
    let mut odd = Odd::default();
    let mut layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    layer["annotations"] = Value::Null;
    layer["urls"] = Value::Null;
    let mut config = usual();
    config["history"] = Value::Null;
    config["config"] = json!({"Env": null, "Cmd": null, "Entrypoint": null, "Labels": null, "Volumes": null,
        "ExposedPorts": null, "User": null, "WorkingDir": null, "StopSignal": null});
    odd.image("nulls", &config, &layer);
    works(odd.0, "nulls").await;
    // An image of nothing, as buildkit makes of FROM scratch.
    let mut empty = Odd::default();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": null}});
    let config = empty.config(&config);
    let manifest = empty.document(MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": null}));
    empty.0.tag("empty", &manifest);
    let registry = serve(empty.0).await;
    pull(&Store::new(), &registry, "empty").await.unwrap();
}

#[tokio::test]
async fn an_empty_platform_in_an_index_is_none() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    let mut entry = odd.image("inner", &usual(), &layer);
    entry["platform"] = json!({});
    let index =
        odd.document("application/vnd.oci.image.index.v1+json", &json!({"schemaVersion": 2, "manifests": [entry]}));
    odd.0.tag("index", &index);
    works(odd.0, "index").await;
}

#[tokio::test]
async fn each_media_type_of_layers_is_unpacked_by_what_the_bytes_are() {
    let zstd = Layer::new(&tar(), Compression::Zstd).unwrap().blob.bytes.to_vec();
    for kind in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ] {
        let separator = if kind.contains("docker") { "." } else { "+" };
        for (compression, bytes) in
            [(None, tar()), (Some("gzip"), gzip()), (Some("zstd"), zstd.clone()), (Some("gzip"), zstd.clone())]
        {
            let media_type = compression.map_or(kind.to_owned(), |name| format!("{kind}{separator}{name}"));
            let mut odd = Odd::default();
            let layer = odd.blob(&media_type, &bytes, Algorithm::Sha256);
            odd.image("1", &usual(), &layer);
            works(odd.0, "1").await;
        }
    }
}

#[tokio::test]
async fn a_layer_that_the_registry_lacks_comes_from_the_address_in_its_descriptor() {
    let mut odd = Odd::default();
    let bytes = gzip();
    let mut layer = odd.blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &bytes, Algorithm::Sha256);
    let elsewhere = serve(odd.0.clone()).await;
    odd.0.by_name.remove(layer["digest"].as_str().unwrap());
    odd.image("nowhere", &usual(), &layer);
    layer["urls"] =
        json!(["ftp://127.0.0.1/x", format!("http://{}/{}", elsewhere.address, layer["digest"].as_str().unwrap())]);
    odd.image("elsewhere", &usual(), &layer);
    let image = works(odd.0.clone(), "elsewhere").await;
    assert_eq!(image.size, image.size.max(bytes.len() as u64));
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()) && elsewhere.seen().len() == 1);
    // What an ordinary layer's descriptor says is no address.
    layer["mediaType"] = json!(GZIP);
    odd.image("ordinary", &usual(), &layer);
    let registry = serve(odd.0).await;
    for tag in ["nowhere", "ordinary"] {
        let error = pull(&Store::new(), &registry, tag).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{tag}: {error:?}");
    }
    assert_eq!(elsewhere.seen().len(), 1);
}

#[tokio::test]
async fn digests_of_sha512_are_verified_and_kept() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha512);
    let config = config_of(Algorithm::Sha512.digest(&tar()).as_str());
    let config = odd.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes(), Algorithm::Sha512);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let manifest = odd.blob(MANIFEST, manifest.to_string().as_bytes(), Algorithm::Sha512);
    odd.0.tag("1", &manifest);
    assert!(works(odd.0.clone(), "1").await.id.starts_with("sha512:"));
    let digest = manifest["digest"].as_str().unwrap();
    let registry = serve(odd.0.clone()).await;
    let mut store = Store::new();
    let name = format!("{}/t@{digest}", registry.address);
    let image = store.images.pull(&name, None).await.unwrap();
    assert_eq!(image.repo_digests, [name.clone()]);
    store.reopen();
    assert_eq!(store.images.find(&name).unwrap(), Some(image));
    // A byte that changed is seen.
    odd.0.by_name.get_mut(layer["digest"].as_str().unwrap()).unwrap()[20] ^= 1;
    let error = pull(&Store::new(), &serve(odd.0).await, "1").await.unwrap_err();
    assert!(error.to_string().contains("its contents have the digest sha512:"), "{error}");
}

#[tokio::test]
async fn a_blob_that_is_missing_is_named_and_not_the_tag() {
    let mut content = content();
    let lost: Vec<String> = content
        .by_name
        .iter()
        .filter(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
        .map(|(name, _)| name.clone())
        .collect();
    content.by_name.remove(&lost[0]);
    let registry = serve(content).await;
    let error = pull(&Store::new(), &registry, "1").await.unwrap_err();
    assert!(
        matches!(error, Error::NotFound { .. }) && error.to_string().starts_with(&format!("blob {} of ", lost[0])),
        "{error}"
    );
    let error = pull(&Store::new(), &registry, "none").await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}/t:none in registry", registry.address)), "{error}");
}

#[tokio::test]
async fn a_page_instead_of_a_manifest_is_told_by_its_type_and_its_first_words() {
    let registry = Registry::start(|_| {
        let page = "\n<!DOCTYPE html>\n<html><head><title>Sign in</title>";
        Reply::new(200, page).with("content-type", "text/html; charset=utf-8").with("docker-content-digest", "sha256:0")
    })
    .await;
    let error = pull(&Store::new(), &registry, "1").await.unwrap_err().to_string();
    for part in ["\"text/html; charset=utf-8\"", "<!DOCTYPE html>", &registry.address] {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    assert_eq!(registry.seen().len(), 1, "it is not asked again");
}

#[tokio::test]
async fn an_image_tells_its_history_and_its_chains() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    let mut config = usual();
    config["created"] = json!("2024-01-01T00:00:00Z");
    config["history"] = json!([{"created_by": "COPY a /", "created": "2024-01-01T00:00:00Z"}]);
    odd.image("1", &config, &layer);
    let (registry, store) = (serve(odd.0).await, Store::new());
    let image = pull(&store, &registry, "1").await.unwrap();
    let (document, chains) = store.images.configuration(&image.id).unwrap();
    assert_eq!(document["history"][0]["created_by"], "COPY a /");
    assert_eq!(document["rootfs"]["diff_ids"][0], Digest::of(&tar()).as_str());
    assert_eq!(
        (document["created"].as_str(), chains),
        (Some("2024-01-01T00:00:00Z"), vec![Digest::of(&tar()).to_string()])
    );
}

#[tokio::test]
async fn a_declared_volume_goes_with_its_container() {
    let registry = serve(content()).await;
    let store = Store::new();
    let image = pull(&store, &registry, "1").await.unwrap();
    let id = ContainerId::random();
    let root = store.images.prepare(&id, &image.id).unwrap();
    let volume = store.images.declared_volume(&id, &root, Path::new("/a")).unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("three")).unwrap(), "3");
    store.images.discard(&id).unwrap();
    assert!(!volume.exists());
}
