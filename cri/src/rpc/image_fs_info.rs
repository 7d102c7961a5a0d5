//! ImageFsInfo: the disk usage of images.

use std::sync::Arc;

use image::FsUsage;
use proto::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse};

use super::container_stats::value;
use crate::error::Error;
use crate::state::clock::now;
use crate::state::node::Node;

/// Images and containers are on one file system, with numbers of their own.
pub(crate) async fn call(node: &Arc<Node>, _request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
    let asked =
        node.block(|node| Ok::<_, Error>((node.images.usage()?, written(node)?, node.images.mountpoint()))).await;
    let (images, (containers, read_at), mountpoint) = asked?;
    let file_system = |usage: FsUsage, timestamp| FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier { mountpoint: mountpoint.display().to_string() }),
        used_bytes: value(Some(usage.bytes)),
        inodes_used: value(Some(usage.inodes)),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![file_system(images, now())],
        container_filesystems: vec![file_system(containers, read_at)],
    })
}

/// What all containers have written to their roots, and the time of the oldest of the readings, which containerd gives too.
fn written(node: &Node) -> Result<(FsUsage, i64), Error> {
    let (mut sum, mut oldest) = (FsUsage { bytes: 0, inodes: 0 }, now());
    for id in node.images.containers()? {
        // One that was removed meanwhile has written nothing.
        let Some(written) = node.written(&id) else { continue };
        sum.bytes += written.usage.bytes;
        sum.inodes += written.usage.inodes;
        oldest = oldest.min(written.at);
    }
    Ok((sum, oldest))
}
