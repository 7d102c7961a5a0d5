//! ImageFsInfo's numbers are those of the disk: what the directories of images hold, counted by somebody else.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::ContainerId;
use image::rootfs::{Copy, Rootfs};
use image::{FsUsage, Images, Settings};
use support::{content, serve, workers};

/// Counts as du(1) does.
fn count(path: &Path) -> FsUsage {
    let metadata = path.symlink_metadata().unwrap();
    let mut sum = FsUsage { bytes: metadata.blocks() * 512, inodes: 1 };
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            let below = count(&entry.unwrap().path());
            (sum.bytes, sum.inodes) = (sum.bytes + below.bytes, sum.inodes + below.inodes);
        }
    }
    sum
}

#[tokio::test]
async fn usage_is_what_the_disk_says() {
    let registry = serve(content()).await;
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots");
    let settings = Settings {
        root: directory.path().join("images"),
        registry_config: None,
        registry_timeout: Duration::from_secs(60),
        workers: workers(),
        rootfs: Arc::new(Copy::open(&roots).unwrap()) as Arc<dyn Rootfs>,
        platforms: vec!["linux/amd64".to_owned()],
    };
    let images = Images::open(settings).unwrap();
    let on_disk = || {
        let blobs = count(&directory.path().join("images"));
        let chains = std::fs::read_dir(roots.join("chains")).unwrap().map(|chain| count(&chain.unwrap().path()));
        chains.fold(blobs, |sum, chain| FsUsage { bytes: sum.bytes + chain.bytes, inodes: sum.inodes + chain.inodes })
    };
    let empty = images.usage().unwrap();
    assert_eq!(empty, on_disk());
    let pulled = images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
    let full = images.usage().unwrap();
    assert_eq!(full, on_disk());
    assert!(full.bytes > empty.bytes && full.inodes > empty.inodes + 8, "{empty:?} {full:?}");
    let id = ContainerId::random();
    images.prepare(&id, &pulled.id).unwrap();
    assert_eq!(images.usage().unwrap(), full, "a container's root is not an image's");
    images.discard(&id).unwrap();
    images.remove(&pulled.id).unwrap();
    assert_eq!(images.usage().unwrap(), on_disk());
    assert!(images.usage().unwrap().inodes <= empty.inodes + 2, "the two files of records stay");
}
