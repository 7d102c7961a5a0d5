//! Pulls from a registry on loopback; the hostile ones are in hostile.rs.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::ContainerId;
use image::rootfs::Chains;
use image::{Credentials, Error, Observer, Phase, Progress};
use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol, ImageLayer, linux_amd64_resolver};
use oci_client::manifest::IMAGE_LAYER_GZIP_MEDIA_TYPE;
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use support::{Content, Contents, Registry, Reply, Store, content, credentials, layer, serve};
use testimage::{Config, Tree};

#[tokio::test]
async fn an_image_is_pulled_unpacked_and_removed() {
    let registry = serve(content()).await;
    let mut store = Store::new();
    let name = format!("{}/team/tool", registry.address);
    let image = store.images.pull(&format!("{name}:1"), None).await.unwrap();
    assert_eq!(image.repo_tags, [format!("{name}:1")]);
    assert!(image.repo_digests[0].starts_with(&format!("{name}@sha256:")) && image.repo_digests.len() == 1);
    assert_eq!((image.config.user.as_str(), image.config.cmd.as_slice()), ("7:7", ["sh".to_owned()].as_slice()));
    let (blobs, requests) = (registry.count("/blobs/"), registry.seen().len());
    assert_eq!(blobs, 4, "a configuration and three layers");

    let again = store.images.pull(&format!("{name}:2"), None).await.unwrap();
    assert_eq!(again.repo_tags, [format!("{name}:1"), format!("{name}:2")]);
    assert_eq!(registry.seen().len(), requests + 1, "only the tag is asked for again");
    let by_digest = store.images.pull(&image.repo_digests[0], None).await.unwrap();
    assert_eq!(by_digest, again);
    store.reopen();
    assert_eq!(store.images.list(), std::slice::from_ref(&again));

    let id = ContainerId::random();
    let root = store.images.prepare(&id, &image.id).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("a/three")).unwrap(), "3");
    assert!(root.join("a/one").exists() && root.join("b").exists());
    assert!(!root.join("a/two").exists() && !root.join("gone").exists());
    assert_eq!(store.images.containers().unwrap(), std::slice::from_ref(&id));

    store.images.remove(&format!("{name}:1")).unwrap();
    assert!(store.images.list().is_empty(), "removing one tag removes all");
    assert!(root.join("a/three").exists(), "a container keeps its root");
    store.images.discard(&id).unwrap();
    assert!(store.leftovers().is_empty(), "{:?}", store.leftovers());
    store.images.remove(&format!("{name}:1")).unwrap();
}

/// oci-client and our own client read the same image from the registry of the demo and of other crates' tests.
#[tokio::test]
async fn an_independent_client_reads_the_same_image() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let layers = ["a", "b"].map(|name| Tree::default().file(name, name).layer().unwrap());
    let made = testimage::Image::new(&layers, &Config { architecture: "amd64", ..Config::default() });
    let mut contents = testimage::Contents::new("team/tool");
    contents.add(&made);
    contents.tag("1", &testimage::index(&[("linux/amd64", made.manifest.descriptor())]));
    let (address, _serving) = testimage::serve(contents).await.unwrap();
    let name = format!("{address}/team/tool:1");

    let config = ClientConfig {
        protocol: ClientProtocol::Http,
        platform_resolver: Some(Box::new(linux_amd64_resolver)),
        ..ClientConfig::default()
    };
    let types = vec![IMAGE_LAYER_GZIP_MEDIA_TYPE];
    let theirs = Client::new(config).pull(&name.parse().unwrap(), &RegistryAuth::Anonymous, types).await.unwrap();
    let ours = Store::new().images.pull(&name, None).await.unwrap();
    assert_eq!(theirs.config.sha256_digest(), ours.id);
    assert_eq!(theirs.digest.as_ref(), Some(&made.manifest.digest));
    let read: BTreeSet<_> = theirs.layers.iter().map(ImageLayer::sha256_digest).collect();
    assert_eq!(read, layers.iter().map(|layer| layer.blob.digest.clone()).collect());
}

#[tokio::test]
async fn two_pulls_share_their_downloads() {
    let registry = serve(content()).await;
    let store = Store::new();
    let name = format!("{}/t:1", registry.address);
    let (one, two) = tokio::join!(store.images.pull(&name, None), store.images.pull(&name, None));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(registry.count("/blobs/"), 4);
}

#[tokio::test]
async fn a_platform_that_is_not_offered_is_refused_with_what_is() {
    let mut content = Content::default();
    let layers = [(layer(&[("a", "a")]), "gzip")];
    let manifest = content.image("freebsd/arm64", &layers);
    content.tag("plain", &manifest);
    let index = content.index(&[("freebsd/arm64", manifest), ("unknown/unknown", json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image::Digest::of(b"x").as_str(), "size": 1}))]);
    content.tag("index", &index);
    let registry = serve(content).await;
    let store = Store::new();
    for tag in ["plain", "index"] {
        let error = store.images.pull(&format!("{}/t:{tag}", registry.address), None).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("offers freebsd/arm64, wanted linux/amd64, linux/386"), "{error}");
    }
    store.wait_until_empty().await;
}

#[tokio::test]
async fn what_does_not_have_its_digest_is_refused_and_nothing_stays() {
    let good = content();
    let layers = [(layer(&[("a", "a")]), "gzip")];
    let mut lying = Content::default();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [image::Digest::of(b"x").as_str()]}});
    let manifest = lying.image_with(&config, &layers);
    lying.tag("1", &manifest);
    let mut corrupt = good.clone();
    corrupt.by_name.iter_mut().filter(|(name, _)| name.starts_with("sha256:")).for_each(|(_, bytes)| {
        // Only blobs are corrupt, manifests are not.
        if bytes.first() != Some(&b'{') {
            *bytes.last_mut().unwrap() ^= 1;
        }
    });
    let mut manifests = good.clone();
    manifests
        .by_name
        .iter_mut()
        .filter(|(name, _)| name.starts_with("sha256:"))
        .for_each(|(_, bytes)| bytes.push(b' '));
    let mut malformed = Content::default();
    let manifest = malformed.image("linux/amd64", &[(b"no tar at all ".repeat(100), "gzip")]);
    malformed.tag("1", &manifest);
    for (content, reason) in
        [(lying, "its image says"), (corrupt, "digest"), (manifests, "digest"), (malformed, "not a tar archive")]
    {
        let registry = serve(content).await;
        for store in Store::of_each_kind() {
            let error = store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains(reason), "{error} lacks {reason}");
            store.wait_until_empty().await;
            assert!(store.images.list().is_empty());
        }
    }
}

#[tokio::test]
async fn a_manifest_that_lies_about_the_size_of_a_stored_blob_is_refused() {
    let mut content = Content::default();
    let manifest = content.image("linux/amd64", &[(layer(&[("a", "a")]), "gzip")]);
    content.tag("good", &manifest);
    let mut lying: serde_json::Value = serde_json::from_slice(&content.by_name["good"]).unwrap();
    lying["layers"][0]["size"] = 13.into();
    content.by_name.insert("lying".to_owned(), lying.to_string().into_bytes());
    let registry = serve(content).await;
    let store = Store::new();
    store.images.pull(&format!("{}/t:good", registry.address), None).await.unwrap();
    let error = store.images.pull(&format!("{}/t:lying", registry.address), None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("13 were announced"), "{error}");
}

#[tokio::test]
async fn a_stored_blob_that_was_cut_off_is_downloaded_again() {
    let registry = serve(content()).await;
    let name = format!("{}/t:1", registry.address);
    let store = Store::new();
    store.images.pull(&name, None).await.unwrap();
    let blobs = || std::fs::read_dir(store.directory.path().join("root/blobs/sha256")).unwrap().map(Result::unwrap);
    let sizes = || blobs().map(|blob| (blob.path(), blob.metadata().unwrap().len())).collect::<BTreeSet<_>>();
    let whole = sizes();
    let layers = blobs().filter(|blob| std::fs::read(blob.path()).unwrap()[0] != b'{');
    layers.for_each(|blob| std::fs::write(blob.path(), "cut off").unwrap());
    assert_ne!(sizes(), whole);
    store.images.pull(&name, None).await.unwrap();
    assert_eq!(sizes(), whole);
}

#[tokio::test]
async fn a_download_that_breaks_is_taken_up_where_it_was() {
    let mut content = Content::default();
    let noise: String =
        (0..200_000u32).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
    let manifest = content.image("linux/amd64", &[(layer(&[("noise", &noise)]), "")]);
    content.tag("1", &manifest);
    let times = AtomicUsize::new(0);
    let registry = Registry::start(move |seen| {
        let mut reply = content.answer(seen);
        if let Contents::Whole(bytes) = &reply.body
            && bytes.len() > 50_000
            && times.fetch_add(1, Ordering::Relaxed) < 2
        {
            reply.body = Contents::Broken(bytes[..50_000].to_vec());
        }
        reply
    })
    .await;
    let store = Store::new();
    store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
    let ranges: Vec<_> = registry.seen().iter().filter_map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=50000-", "bytes=100000-"]);
}

#[tokio::test]
async fn refusals_mean_what_they_say() {
    type Expected = fn(&Error) -> bool;
    let table: [(u16, Expected, &str); 4] = [
        (403, |error| matches!(error, Error::Denied { .. }), "not for you"),
        (404, |error| matches!(error, Error::NotFound { .. }), "not found"),
        (503, |error| matches!(error, Error::Unavailable { .. }), "does not serve"),
        (418, |error| matches!(error, Error::Failed { .. }), "refuses"),
    ];
    for (status, expected, text) in table {
        let registry = Registry::start(move |_| {
            Reply::new(status, r#"{"errors":[{"code":"X","message":"not for you"}]}"#).with("retry-after", "0")
        })
        .await;
        let store = Store::new();
        let error = store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(registry.seen().len(), if status == 503 { 4 } else { 1 }, "only what may pass is tried again");
    }
    let store = Store::new();
    let nobody = store.images.pull("127.0.0.1:1/t:1", None).await.unwrap_err();
    assert!(matches!(nobody, Error::Unavailable { .. }), "{nobody:?}");
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    let (content, times) = (content(), AtomicUsize::new(0));
    let registry = Registry::start(move |seen| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(429, "").with("retry-after", "0"),
        1 => Reply::new(500, ""),
        _ => content.answer(seen),
    })
    .await;
    let store = Store::new();
    store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
}

/// A registry that requires a bearer token; its `/token` issues one for these credentials.
async fn guarded(content: Content, scheme: &'static str) -> Registry {
    let own = Arc::new(std::sync::OnceLock::<String>::new());
    let address = Arc::clone(&own);
    let registry = Registry::start(move |seen| {
        let basic = seen.header("authorization") == Some("Basic c29tZWJvZHk6cGFzcy14");
        let refresh = seen.body.contains("grant_type=refresh_token") && seen.body.contains("refresh_token=identity-x");
        match (seen.target.starts_with("/token"), seen.header("authorization")) {
            (true, _) if basic || refresh => Reply::new(200, r#"{"token":"token-x"}"#),
            (true, _) => {
                Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"pass-x identity-x are wrong"}]}"#)
            }
            (false, Some("Bearer token-x" | "Bearer registry-x")) if scheme == "Bearer" => content.answer(seen),
            (false, _) if basic && scheme == "Basic" => content.answer(seen),
            _ => {
                let realm = format!("http://{}/token", own.get().unwrap());
                Reply::new(401, "").with("www-authenticate", format!("{scheme} realm=\"{realm}\",service=\"here\""))
            }
        }
    })
    .await;
    address.set(registry.address.clone()).unwrap();
    registry
}

#[tokio::test]
async fn each_way_to_authenticate_works() {
    let token = Credentials { registry_token: "registry-x".to_owned(), ..Credentials::default() };
    let identity = Credentials { identity_token: "identity-x".to_owned(), ..Credentials::default() };
    for (scheme, credentials) in
        [("Bearer", credentials()), ("Bearer", token), ("Bearer", identity), ("Basic", credentials())]
    {
        let registry = guarded(content(), scheme).await;
        let store = Store::new();
        let named = Credentials { server_address: format!("http://{}", registry.address), ..credentials.clone() };
        store.images.pull(&format!("{}/t:1", registry.address), Some(named)).await.unwrap();
        assert!(registry.count("/token") <= 1, "one token serves the whole pull");
        let elsewhere = Credentials { server_address: "https://example.org".to_owned(), ..credentials };
        let error = store.images.pull(&format!("{}/t:1", registry.address), Some(elsewhere)).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "they are for another registry: {error:?}");
    }
}

#[tokio::test]
async fn what_is_denied_says_so_without_a_secret() {
    for scheme in ["Bearer", "Basic", "Magic"] {
        let registry = guarded(content(), scheme).await;
        let store = Store::new();
        let wrong = Credentials {
            password: "pass-x".to_owned(),
            username: "nobody".to_owned(),
            identity_token: String::new(),
            ..Credentials::default()
        };
        for credentials in [None, Some(wrong)] {
            let shown = credentials.is_some();
            let error = store.images.pull(&format!("{}/t:1", registry.address), credentials).await.unwrap_err();
            assert!(matches!(error, Error::Denied { .. }), "{error:?}");
            // Only text that repeats the credentials is secret.
            let washed = !format!("{error:?} {}", host::chain(&error)).contains("pass-x");
            assert!(washed || !shown, "{error:?}");
            assert!(registry.seen().len() < 12, "nobody is asked for ever");
        }
    }
}

#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let content = content();
    let blobs = serve(content.clone()).await;
    let elsewhere = blobs.address.clone();
    let registry = Registry::start(move |seen| match seen.header("authorization") {
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
        Some(_) if seen.target.contains("/blobs/") => {
            Reply::new(307, "").with("location", format!("http://{elsewhere}{}", seen.target))
        }
        Some(_) => content.answer(seen),
    })
    .await;
    let store = Store::new();
    store.images.pull(&format!("{}/t:1", registry.address), Some(credentials())).await.unwrap();
    assert_eq!(blobs.seen().len(), 4);
    assert!(blobs.seen().iter().all(|seen| seen.header("authorization").is_none()));

    let circle = Registry::start(|seen| Reply::new(302, "").with("location", seen.target.clone())).await;
    let error = store.images.pull(&format!("{}/t:1", circle.address), None).await.unwrap_err();
    assert!(error.to_string().contains("without end"), "{error}");
}

/// Incompressible bytes.
fn noise(length: u32) -> String {
    (0..length)
        .map(|n| char::from(b'!' + (n.wrapping_mul(2_654_435_761).rotate_left(n % 31) >> 24) as u8 % 90))
        .collect()
}

#[tokio::test]
async fn a_full_disk_fails_the_pull_and_what_fits_is_pulled_beside_it() {
    for part in ["root", "fake"] {
        let Some((store, _disk)) = Store::on_small_disk(part, 3) else { return };
        let mut content = content();
        let large = content.image("linux/amd64", &[(layer(&[("noise", &noise(3 << 20))]), "gzip")]);
        content.tag("large", &large);
        let registry = serve(content).await;
        let error = store.images.pull(&format!("{}/t:large", registry.address), None).await.unwrap_err();
        let said = host::chain(&error);
        assert!(matches!(error, Error::Unavailable { .. }) && host::is_exhausted(&error), "{error:?}");
        assert!(said.contains("No space left on device") && said.contains("sha256:"), "{said}");
        store.wait_until_empty().await;
        store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
        let id = ContainerId::random();
        store.images.prepare(&id, &store.images.list()[0].id).unwrap();
        store.images.discard(&id).unwrap();
    }
}

#[tokio::test]
async fn on_a_full_disk_an_image_can_be_removed() {
    let Some((store, disk)) = Store::on_small_disk("root", 4) else { return };
    let mut content = content();
    let other = content.image("linux/amd64", &[(layer(&[("a", "a")]), "gzip")]);
    content.tag("other", &other);
    let registry = serve(content).await;
    let (name, other) = (format!("{}/t:1", registry.address), format!("{}/t:other", registry.address));
    store.images.pull(&name, None).await.unwrap();
    let filler = disk.fill().unwrap();
    let error = store.images.pull(&other, None).await.unwrap_err();
    assert!(host::is_exhausted(&error), "{error:?}");
    store.images.remove(&name).unwrap();
    assert!(store.images.list().is_empty());
    store.wait_until_empty().await;
    std::fs::remove_file(filler).unwrap();
    store.images.pull(&other, None).await.unwrap();
    let filler = disk.fill().unwrap();
    store.images.remove(&other).unwrap();
    std::fs::remove_file(filler).unwrap();
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_nothing() {
    let content = content();
    let registry = Registry::start(move |seen| {
        let reply = content.answer(seen);
        match reply.body {
            Contents::Whole(bytes) if seen.target.contains("/blobs/") && bytes.first() != Some(&b'{') => {
                Reply { body: Contents::Stalled(bytes[..bytes.len() / 2].to_vec()), headers: Vec::new(), status: 200 }
            }
            body => Reply { body, ..reply },
        }
    })
    .await;
    for store in Store::of_each_kind() {
        let pull = store.images.pull("127.0.0.1:1/t", None);
        drop(pull);
        let name = format!("{}/t:1", registry.address);
        let given_up = tokio::time::timeout(Duration::from_secs(1), store.images.pull(&name, None)).await;
        assert!(given_up.is_err());
        store.wait_until_empty().await;
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_and_told_for_whom() {
    let empty = Registry::start(|_| Reply::new(404, "")).await;
    let broken = Registry::start(|_| Reply::new(200, "{")).await;
    let mirror = serve(content()).await;
    let store = Store::new();
    let directory = store.directory.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    let hosts = format!(
        "server = \"http://{2}/refused\"\n[host.\"http://{0}\"]\n[host.\"http://{1}\"]\ncapabilities = [\"pull\"]\n[host.\"http://{2}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        empty.address, broken.address, mirror.address
    );
    std::fs::write(directory.join("hosts.toml"), hosts).unwrap();
    let image = store.images.pull("registry.example/a/b:1", None).await.unwrap();
    assert_eq!(image.repo_tags, ["registry.example/a/b:1"]);
    assert_eq!(empty.seen()[0].target, "/v2/a/b/manifests/1?ns=registry.example");
    assert_eq!(broken.count("/manifests/1"), 0, "it may not say what a tag means");
    assert_eq!(mirror.seen()[0].target, "/v2/a/b/manifests/1?ns=registry.example");
}

#[tokio::test]
async fn what_cannot_be_removed_at_the_start_ends_no_server() {
    let registry = serve(content()).await;
    let name = format!("{}/t:1", registry.address);
    for nth in 1.. {
        let mut store = Store::new();
        store.images.pull(&name, None).await.unwrap();
        store.faults.arm(nth, host::fault::Fault::FailBefore);
        store.reopen();
        if !store.faults.disarm() {
            assert!(nth > 2, "the faults struck");
            break;
        }
        store.images.pull(&name, None).await.unwrap();
        store.images.remove(&name).unwrap();
        store.wait_until_empty().await;
    }
}

#[tokio::test]
async fn each_backend_failure_ends_the_pull_and_a_second_one_succeeds() {
    let registry = serve(content()).await;
    let name = format!("{}/t:1", registry.address);
    for kind in [Chains::Stacked { bytes_min: 0 }, Chains::Stacked { bytes_min: 1 << 20 }, Chains::Trees] {
        for nth in 1.. {
            let store = Store::with_chains(kind);
            store.faults.arm(nth, host::fault::Fault::FailBefore);
            let first = store.images.pull(&name, None).await;
            if !store.faults.disarm() {
                first.unwrap();
                assert!(nth > 5, "the faults struck");
                break;
            }
            store.images.pull(&name, None).await.unwrap();
            store.images.remove(&name).unwrap();
            store.wait_until_empty().await;
        }
    }
}

#[tokio::test]
async fn an_observer_is_told_of_each_layer_from_its_first_byte_to_its_last() {
    let content = content();
    let registry = serve(content).await;
    let store = Store::new();
    let name = format!("{}/t:1", registry.address);
    for downloads in [true, false] {
        let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
        let log = Arc::clone(&told);
        let observer = Observer::new(move |progress| log.lock().unwrap().push(progress));
        store.images.pull_observed(&name, None, observer).await.unwrap();
        let told = told.lock().unwrap();
        let layers: BTreeSet<_> = told.iter().map(|progress| progress.layer.to_string()).collect();
        assert_eq!(layers.len(), 3, "the configuration is no layer: {told:?}");
        for layer in layers {
            let of: Vec<_> = told.iter().filter(|progress| progress.layer.as_str() == layer).collect();
            assert_eq!((of[0].phase, of[0].done), (Phase::Waiting, 0));
            let last = of.last().unwrap();
            assert!(last.phase == Phase::Complete && last.done == last.total && last.total > 0, "{of:?}");
            assert_eq!(of.iter().any(|progress| progress.phase == Phase::Downloading), downloads);
            assert_eq!(of.iter().any(|progress| progress.phase == Phase::Unpacking), downloads);
        }
    }
}
