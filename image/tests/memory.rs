//! The memory of a server that pulls many images: bounded by what is in use, and given back.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::{Content, Registry, Store};
use testimage::Tree;

/// Images that are pulled.
const IMAGES: usize = 40;
/// Images after which it is measured first.
const EARLY: usize = 10;
/// KiB that a measurement may be off. Without the rounds, 55 MiB stayed of 60 images.
const SLACK: u64 = 16 << 10;
/// Bytes of the labels of each image, which its record keeps.
const LABELS: usize = 256 << 10;
/// Bytes of each layer.
const LAYER: usize = 1 << 20;

/// The anonymous memory of this process in KiB; None: the system does not tell.
fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// An image with this number in it.
fn image(number: usize) -> Content {
    let mut state = number as u64;
    let mut noise = Vec::with_capacity(LAYER);
    while noise.len() < LAYER {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&state.to_be_bytes());
    }
    let tar = Tree::default().program("noise", &noise).tar().unwrap();
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "config": {"Labels": {"number": number.to_string(), "text": "x".repeat(LABELS)}},
        "rootfs": {"type": "layers", "diff_ids": [image::Digest::of(&tar).as_str()]},
    });
    let mut content = Content::default();
    let manifest = content.image_with(&config, &[(tar, "")]);
    content.tag("1", &manifest);
    content
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pulls_took_is_given_back() {
    let Some(_) = anonymous() else { return };
    let store = Store::new();
    let served = Arc::new(Mutex::new(Content::default()));
    let content = Arc::clone(&served);
    let registry = Registry::start(move |seen| content.lock().unwrap().answer(seen)).await;
    let mut early = 0;
    for number in 0..IMAGES {
        *served.lock().unwrap() = image(number);
        store.images.pull(&format!("{}/t{number}:1", registry.address), None).await.unwrap();
        if number + 1 == EARLY {
            early = rested().await;
        }
    }
    *served.lock().unwrap() = Content::default();
    let late = rested().await;
    let records = (IMAGES - EARLY) * LABELS / 1024;
    assert!(late < early + records as u64 + SLACK, "{early} KiB after {EARLY} images, {late} after {IMAGES}");
    for image in store.images.list() {
        store.images.remove(&image.id).unwrap();
    }
    let removed = rested().await;
    assert!(removed < early + SLACK, "{early} KiB after {EARLY} images, {removed} after all were removed");
}

/// The memory once the round that gives back is over.
async fn rested() -> u64 {
    tokio::time::sleep(Duration::from_secs(3)).await;
    anonymous().unwrap()
}
