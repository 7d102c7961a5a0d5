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
    let mut images = Vec::new();
    for store in Store::of_each_kind() {
        images.push(works_in(&store, &registry, tag).await);
    }
    assert!(images.windows(2).all(|two| two[0] == two[1]), "{images:?}");
    images.remove(0)
}

async fn works_in(store: &Store, registry: &Registry, tag: &str) -> Image {
    let image = pull(store, registry, tag).await.unwrap_or_else(|error| panic!("{tag}: {}", host::chain(&error)));
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
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()) && elsewhere.seen().len() == 3);
    // What an ordinary layer's descriptor says is no address.
    layer["mediaType"] = json!(GZIP);
    odd.image("ordinary", &usual(), &layer);
    let registry = serve(odd.0).await;
    for tag in ["nowhere", "ordinary"] {
        let error = pull(&Store::new(), &registry, tag).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{tag}: {error:?}");
    }
    assert_eq!(elsewhere.seen().len(), 3);
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
    assert_eq!(image.repo_digests, std::slice::from_ref(&name));
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

#[tokio::test]
async fn an_index_with_attestations_gives_the_image() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    let image = odd.image("inner", &usual(), &layer);
    let statement = odd.blob("application/vnd.in-toto+json", b"{}", Algorithm::Sha256);
    let config = odd.config(&config_of(Digest::of(b"{}").as_str()));
    let attestation = odd.document(MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": [statement]}));
    let index = odd.0.index(&[("unknown/unknown", attestation), ("linux/amd64", image)]);
    odd.0.tag("index", &index);
    works(odd.0, "index").await;
}

#[tokio::test]
async fn a_manifest_may_have_an_empty_media_type_and_lack_its_layers() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    let config = odd.config(&usual());
    let manifest =
        odd.document(MANIFEST, &json!({"schemaVersion": 2, "mediaType": "", "config": config, "layers": [layer]}));
    odd.0.tag("empty-type", &manifest);
    works(odd.0.clone(), "empty-type").await;
    let layerless = odd.document(MANIFEST, &json!({"schemaVersion": 2, "config": config}));
    odd.0.tag("layerless", &layerless);
    let error = pull(&Store::new(), &serve(odd.0).await, "layerless").await.unwrap_err();
    assert!(error.to_string().contains("its manifest has 0 layers, its configuration 1"), "{error}");
}

#[tokio::test]
async fn a_manifest_behind_a_redirect_and_without_a_content_type_is_taken() {
    let content = content();
    let elsewhere = serve(content).await;
    let to = elsewhere.address.clone();
    let registry =
        Registry::start(move |seen| Reply::new(302, "").with("location", format!("http://{to}{}", seen.target))).await;
    pull(&Store::new(), &registry, "1").await.unwrap();
    assert!(registry.seen().iter().all(|seen| seen.method == "GET"), "nothing depends on the answer to a HEAD");
}

#[tokio::test]
async fn a_mirror_below_a_path_is_asked_for_a_token_of_its_own_scope_alone() {
    let content = content();
    let own = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let address = std::sync::Arc::clone(&own);
    let mirror = Registry::start(move |seen| match (seen.target.starts_with("/token"), seen.header("authorization")) {
        (true, _) => Reply::new(200, r#"{"token":"token-x"}"#),
        (false, Some(_)) => content.answer(seen),
        (false, None) => Reply::new(401, "").with(
            "www-authenticate",
            format!("Bearer realm=\"http://{}/token\",scope=\"repository:me/docker.io/a/b:pull\"", own.get().unwrap()),
        ),
    })
    .await;
    address.set(mirror.address.clone()).unwrap();
    let store = Store::new();
    let directory = store.directory.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    let hosts = format!("[host.\"http://{}/v2/me/docker.io\"]\noverride_path = true\n", mirror.address);
    std::fs::write(directory.join("hosts.toml"), hosts).unwrap();
    store.images.pull("registry.example/a/b:1", None).await.unwrap();
    let token = mirror.seen().into_iter().find(|seen| seen.target.starts_with("/token")).unwrap().target;
    assert_eq!(token.matches("scope=").count(), 1, "{token}");
    assert!(token.contains("me%2Fdocker.io%2Fa%2Fb"), "{token}");
    assert!(mirror.seen()[0].target.starts_with("/v2/me/docker.io/a/b/manifests/1"), "{:?}", mirror.seen()[0]);
}

#[tokio::test]
async fn a_token_server_that_answers_a_page_is_named() {
    let own = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let address = std::sync::Arc::clone(&own);
    let registry = Registry::start(move |seen| match seen.target.starts_with("/token") {
        true => Reply::new(200, "<html>Sign in</html>").with("content-type", "text/html"),
        false => Reply::new(401, "")
            .with("www-authenticate", format!("Bearer realm=\"http://{}/token\"", own.get().unwrap())),
    })
    .await;
    address.set(registry.address.clone()).unwrap();
    let error = pull(&Store::new(), &registry, "1").await.unwrap_err().to_string();
    assert!(error.contains("/token\" answers no token") && error.contains("<html>Sign in"), "{error}");
}

#[tokio::test]
async fn a_whiteout_removes_also_when_layers_arrive_out_of_order() {
    let layers = [
        (layer(&[("a", "x"), ("gone", &"x".repeat(200_000))]), ""),
        (layer(&[(".wh.gone", ""), ("b", "b")]), "gzip"),
        (layer(&[("c", "c")]), "gzip"),
    ];
    let mut content = Content::default();
    let manifest = content.image("linux/amd64", &layers);
    content.tag("1", &manifest);
    let registry = Registry::start(move |seen| {
        // The lowest layer comes last.
        if content.answer(seen).is_larger_than(100_000) {
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        content.answer(seen)
    })
    .await;
    for store in Store::of_each_kind() {
        let image = pull(&store, &registry, "1").await.unwrap();
        let root = store.images.prepare(&ContainerId::random(), &image.id).unwrap();
        assert!(root.join("c").exists() && !root.join("gone").exists());
    }
}

#[tokio::test]
async fn a_layer_that_stands_twice_is_applied_twice() {
    let mut odd = Odd::default();
    let layer = odd.blob(GZIP, &gzip(), Algorithm::Sha256);
    let diff_id = Digest::of(&tar()).to_string();
    let mut config = usual();
    config["rootfs"]["diff_ids"] = json!([diff_id, diff_id]);
    let config = odd.config(&config);
    let manifest = odd.document(MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": [layer, layer]}));
    odd.0.tag("1", &manifest);
    works(odd.0, "1").await;
}
