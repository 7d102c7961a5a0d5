//! ImageFsInfo: the disk usage of images.

use std::sync::Arc;

use proto::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse};

use super::container_stats::value;
use crate::error::Error;
use crate::state::clock::now;
use crate::state::node::Node;

/// Images and containers share one file system, which is therefore in both lists.
pub(crate) async fn call(node: &Arc<Node>, _request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
    let usage = node.block(|node| node.images.usage()).await?;
    let file_system = FilesystemUsage {
        timestamp: now(),
        fs_id: Some(FilesystemIdentifier { mountpoint: node.images.mountpoint().display().to_string() }),
        used_bytes: value(Some(usage.bytes)),
        inodes_used: value(Some(usage.inodes)),
    };
    Ok(ImageFsInfoResponse { image_filesystems: vec![file_system.clone()], container_filesystems: vec![file_system] })
}
