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

/// A registry with images of one to three layers, which are their tags, and another image, `0`; the digest of the third layer's blob.
async fn serve_all() -> (Registry, String) {
    let mut content = Content::default();
    let layers = [(layer(&[("one", "1")]), ""), (layer(&[("two", "2")]), "gzip"), (layer(&[("three", "3")]), "")];
    for count in 1..=3 {
        let manifest = content.image("linux/amd64", &layers[..count]);
        content.tag(&count.to_string(), &manifest);
    }
    let other = content.image("linux/amd64", &[(layer(&[("other", "0")]), "gzip")]);
    content.tag("0", &other);
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
        let (registry, third) = serve_all().await;
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

    fn discard(&self, id: &ContainerId) -> JoinHandle<Result<(), image::Error>> {
        let (images, id) = (self.store.images.clone(), id.clone());
        spawn_blocking(move || images.discard(&id))
    }

    /// A root of an image of this number of layers.
    fn prepare(&self, layers: usize) -> (ContainerId, PathBuf) {
        let (id, image) = (ContainerId::random(), self.store.images.find(&self.name(layers)).unwrap().unwrap());
        let root = self.store.images.prepare(&id, &image.id).unwrap();
        (id, root)
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
    pulling.await.unwrap().unwrap();
    for chain in world.chains() {
        let record = std::fs::read_to_string(chain.join("chain.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        let below = record["parent"].as_str().and_then(|parent| parent.strip_prefix("sha256:"));
        assert!(below.is_none_or(|below| chain.with_file_name(below).exists()), "it needs one that is gone: {record}");
    }
    let (_, root) = world.prepare(3);
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
    assert!(world.prepare(3).1.join("three").exists());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_goes_while_its_chain_is_found_in_use_takes_it_along() {
    let world = World::new(Chains::Stacked { bytes_min: 0 }).await;
    world.pull(1).await.unwrap().unwrap();
    let (id, _) = world.prepare(1);
    // The collection knows that the container uses the chain, and has not said so yet.
    world.store.faults.arm_next("rootfs remove chain", Fault::HangAfter);
    let removing = world.remove(1);
    world.wait_until_hung().await;
    world.discard(&id).await.unwrap().unwrap();
    world.store.faults.resume();
    removing.await.unwrap().unwrap();
    world.store.wait_until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_two_collections_left_to_each_other_goes_with_the_next_container() {
    let world = World::new(Chains::Stacked { bytes_min: 0 }).await;
    for image in 0..=1 {
        world.pull(image).await.unwrap().unwrap();
    }
    let [(id, _), (other, _)] = [1, 0].map(|image| world.prepare(image));
    // The collection finds the chain in use, says so, and finds it in use once more.
    world.store.faults.arm_next("rootfs remove chain", Fault::HangAfter);
    let removing = world.remove(1);
    world.wait_until_hung().await;
    world.store.faults.arm_next("rootfs remove chain", Fault::HangAfter);
    world.store.faults.resume();
    world.wait_until_hung().await;
    world.discard(&id).await.unwrap().unwrap();
    world.store.faults.resume();
    removing.await.unwrap().unwrap();
    world.discard(&other).await.unwrap().unwrap();
    assert_eq!(world.chains().len(), 1, "that of the other image");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_hangs_keeps_no_other_waiting() {
    let world = World::new(Chains::Stacked { bytes_min: 0 }).await;
    for image in 0..=1 {
        world.pull(image).await.unwrap().unwrap();
    }
    let (id, _) = world.prepare(1);
    world.hang("rootfs remove chain");
    let hanging = world.remove(0);
    world.wait_until_hung().await;
    let others = async {
        world.remove(1).await.unwrap().unwrap();
        world.discard(&id).await.unwrap().unwrap();
    };
    tokio::time::timeout(PATIENCE, others).await.unwrap();
    assert_eq!(world.chains().len(), 1, "that of the removal that hangs");
    world.store.faults.resume();
    hanging.await.unwrap().unwrap();
    world.store.wait_until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_long_pull_no_container_starts_a_collection() {
    let world = World::new(Chains::Stacked { bytes_min: 0 }).await;
    for image in 0..=2 {
        world.pull(image).await.unwrap().unwrap();
    }
    world.hang("rootfs begin");
    let pulling = world.pull(3);
    world.wait_until_hung().await;
    world.remove(0).await.unwrap().unwrap();
    world.remove(1).await.unwrap().unwrap();
    world.store.faults.arm_next("rootfs inventory", Fault::FailBefore);
    (0..5).for_each(|_| drop(world.prepare(2)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!world.store.faults.disarm(), "somebody collected");
    world.store.faults.resume();
    pulling.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_although_an_image_has_a_blob_of_its_name() {
    let world = World::new(Chains::Trees).await;
    for image in 1..=2 {
        world.pull(image).await.unwrap().unwrap();
    }
    // The lowest layer is not compressed: its chain and its blob have one digest.
    world.remove(1).await.unwrap().unwrap();
    assert_eq!(world.chains().len(), 1);
    assert!(world.prepare(2).1.join("two").exists());
}
