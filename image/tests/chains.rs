//! What chains images get, and when they go.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::path::PathBuf;

use host::ContainerId;
use image::Image;
use image::rootfs::Chains;
use support::{Content, Registry, Store, layer, serve};

/// Tags by the number of their layers; the upper ones change what the lower ones have.
async fn serve_layers() -> Registry {
    let mut content = Content::default();
    let layers = [
        (layer(&[("a/", ""), ("a/one", "1"), ("a/two", "2"), ("gone", "x")]), "gzip"),
        (layer(&[("a/.wh.two", ""), (".wh.gone", ""), ("b", "b")]), "zstd"),
        (layer(&[("a/three", "3")]), ""),
    ];
    for count in 1..=layers.len() {
        let manifest = content.image("linux/amd64", &layers[..count]);
        content.tag(&count.to_string(), &manifest);
    }
    serve(content).await
}

/// Checks that a root shows the three layers.
fn assert_whole(store: &Store, image: &Image) {
    let id = ContainerId::random();
    let root = store.images.prepare(&id, &image.id).unwrap();
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    assert_eq!((read("a/one"), read("a/three"), read("b")), ("1".into(), "3".into(), "b".into()));
    assert!(!root.join("a/two").exists() && !root.join("gone").exists(), "whiteouts remove what lower layers have");
    store.images.discard(&id).unwrap();
}

/// The directories of a store's chains.
fn chains(store: &Store) -> Vec<PathBuf> {
    let chains = std::fs::read_dir(store.directory.path().join("fake/chains")).unwrap();
    chains.map(|chain| chain.unwrap().path().join("fs")).collect()
}

#[tokio::test]
async fn where_chains_are_whole_trees_an_image_has_one_and_needs_no_other() {
    let registry = serve_layers().await;
    let store = Store::with_chains(Chains::Trees);
    let name = |count: usize| format!("{}/t:{count}", registry.address);
    let pulled = async |count: usize| store.images.pull(&name(count), None).await.unwrap();
    let (one, two) = tokio::join!(pulled(3), pulled(3));
    assert_eq!((one, chains(&store).len()), (two, 1), "two pulls made one chain");
    pulled(2).await;
    assert_eq!(chains(&store).len(), 2, "of another image, with the same layers");
    store.images.remove(&name(3)).unwrap();
    let base = chains(&store);
    assert_eq!(base.len(), 1);
    std::fs::write(base[0].join("mark"), "").unwrap();
    let whole = pulled(3).await;
    assert!(chains(&store).iter().all(|chain| chain.join("mark").exists()), "it is made of the other one");
    store.images.remove(&name(2)).unwrap();
    assert_eq!(chains(&store).len(), 1, "the lower one goes with its image");
    assert_whole(&store, &whole);
    store.images.remove(&name(3)).unwrap();
    assert!(store.leftovers().is_empty(), "{:?}", store.leftovers());
}

#[tokio::test]
async fn trees_that_an_earlier_server_made_for_each_layer_go_at_the_start() {
    let registry = serve_layers().await;
    let mut store = Store::new();
    let whole = store.images.pull(&format!("{}/t:3", registry.address), None).await.unwrap();
    assert_eq!(chains(&store).len(), 3);
    store.reopen_with(Chains::Trees);
    assert_eq!(chains(&store).len(), 1);
    assert_whole(&store, &whole);
}

#[tokio::test]
async fn small_layers_are_gathered_into_one_chain() {
    let registry = serve_layers().await;
    let store = Store::with_chains(Chains::Stacked { bytes_min: 1 << 20 });
    let pulled =
        async |count: usize| store.images.pull(&format!("{}/t:{count}", registry.address), None).await.unwrap();
    pulled(2).await;
    assert_eq!(chains(&store).len(), 1);
    let whole = pulled(3).await;
    assert_eq!(chains(&store).len(), 2, "on top of the image that was there");
    assert_whole(&store, &whole);
    // Neither of the first two layers has as many bytes, both together have.
    let store = Store::with_chains(Chains::Stacked { bytes_min: 256 });
    let whole = store.images.pull(&format!("{}/t:3", registry.address), None).await.unwrap();
    assert_eq!(chains(&store).len(), 2, "the third is on top of the others");
    assert_whole(&store, &whole);
}

#[tokio::test]
async fn an_image_whose_chain_a_container_kept_gets_its_blobs_again() {
    let registry = serve_layers().await;
    let name = format!("{}/t:3", registry.address);
    for store in Store::of_each_kind() {
        let image = store.images.pull(&name, None).await.unwrap();
        let blobs = || std::fs::read_dir(store.directory.path().join("root/blobs/sha256")).unwrap().count();
        let all = blobs();
        let id = ContainerId::random();
        store.images.prepare(&id, &image.id).unwrap();
        store.images.remove(&name).unwrap();
        assert!(blobs() == 0 && !chains(&store).is_empty());
        store.images.pull(&name, None).await.unwrap();
        assert_eq!(blobs(), all);
    }
}
