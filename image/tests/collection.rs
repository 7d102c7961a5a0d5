//! The garbage collection beside pulls and containers.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use host::ContainerId;
use host::fault::Fault;
use image::rootfs::Chains;
use image::{Digest, Image};
use support::{Content, Registry, Store, layer, serve};
use tokio::task::{JoinHandle, spawn_blocking};

const PATIENCE: Duration = Duration::from_secs(20);

/// A registry with images of two and of three layers, which are their tags, and the digest of the third layer's blob.
async fn serve_two() -> (Registry, String) {
    let mut content = Content::default();
    let layers = [(layer(&[("one", "1")]), ""), (layer(&[("two", "2")]), "gzip"), (layer(&[("three", "3")]), "")];
    for count in 2..=3 {
        let manifest = content.image("linux/amd64", &layers[..count]);
        content.tag(&count.to_string(), &manifest);
    }
    (serve(content).await, Digest::of(&layers[2].0).to_string())
}

/// A store and a registry.
struct World {
    store: Store,
    registry: Registry,
    third: String,
}

impl World {
    async fn new(chains: Chains) -> Self {
        let (registry, third) = serve_two().await;
        Self { store: Store::with_chains(chains), registry, third }
    }

    fn name(&self, layers: usize) -> String {
        format!("{}/t:{layers}", self.registry.address)
    }

    fn pull(&self, layers: usize) -> JoinHandle<Result<Image, image::Error>> {
        let (images, name) = (self.store.images.clone(), self.name(layers));
        tokio::spawn(async move { images.pull(&name, None).await })
    }

    fn remove(&self, layers: usize) -> JoinHandle<Result<(), image::Error>> {
        let (images, name) = (self.store.images.clone(), self.name(layers));
        spawn_blocking(move || images.remove(&name))
    }

    /// Lets the next call of the backend of this name wait until [`host::fault::Faults::resume`].
    fn hang(&self, operation: &'static str) {
        self.store.faults.arm_next(operation, Fault::HangBefore);
    }

    async fn wait_until_hung(&self) {
        let faults = self.store.faults.clone();
        assert!(spawn_blocking(move || faults.wait_until_hung(PATIENCE)).await.unwrap());
    }

    fn chains(&self) -> Vec<PathBuf> {
        let chains = std::fs::read_dir(self.store.directory.path().join("fake/chains")).unwrap();
        chains.map(|chain| chain.unwrap().path()).collect()
    }

    async fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE.as_millis() / 20 {
            if what(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("chains: {:?}", self.chains());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_about_to_be_removed_is_no_base() {
    let world = World::new(Chains::Stacked { bytes_min: 1 << 20 }).await;
    world.pull(2).await.unwrap().unwrap();
    // The collection has seen that nobody needs the chain.
    world.hang("rootfs remove chain");
    let removing = world.remove(2);
    world.wait_until_hung().await;
    let pulling = world.pull(3);
    // The pull knows by then what it has to make.
    world.wait_for(|world| world.registry.count(&world.third) > 0).await;
    world.store.faults.resume();
    removing.await.unwrap().unwrap();
    let image = pulling.await.unwrap().unwrap();
    for chain in world.chains() {
        let record = std::fs::read_to_string(chain.join("chain.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        let below = record["parent"].as_str().and_then(|parent| parent.strip_prefix("sha256:"));
        assert!(below.is_none_or(|below| chain.with_file_name(below).exists()), "it needs one that is gone: {record}");
    }
    let root = world.store.images.prepare(&ContainerId::random(), &image.id).unwrap();
    assert!(["one", "two", "three"].iter().all(|file| root.join(file).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_whose_image_went_while_it_was_needed_goes_after_the_pull() {
    let world = World::new(Chains::Trees).await;
    world.pull(2).await.unwrap().unwrap();
    world.hang("rootfs begin");
    let pulling = world.pull(3);
    world.wait_until_hung().await;
    world.remove(2).await.unwrap().unwrap();
    assert_eq!(world.chains().len(), 1, "the pull copies it");
    world.store.faults.resume();
    pulling.await.unwrap().unwrap();
    // Whose tree it is shows in a root.
    world.wait_for(|world| world.chains().len() == 1).await;
    let image = world.store.images.find(&world.name(3)).unwrap().unwrap();
    assert!(world.store.images.prepare(&ContainerId::random(), &image.id).unwrap().join("three").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_needed_while_its_image_went_goes_with_the_container() {
    let world = World::new(Chains::Stacked { bytes_min: 0 }).await;
    let image = world.pull(2).await.unwrap().unwrap();
    let id = ContainerId::random();
    world.hang("rootfs prepare");
    let (images, own) = (world.store.images.clone(), id.clone());
    let preparing = spawn_blocking(move || images.prepare(&own, &image.id));
    world.wait_until_hung().await;
    world.remove(2).await.unwrap().unwrap();
    world.store.faults.resume();
    assert!(preparing.await.unwrap().unwrap().join("two").exists());
    world.store.images.discard(&id).unwrap();
    world.store.wait_until_empty().await;
}
