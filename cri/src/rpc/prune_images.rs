//! Admin's PruneImages: removes the images that no container uses, as its root or as a volume, and that are not pinned.

use std::collections::HashSet;
use std::sync::Arc;

use image::Image;
use proto::admin::{PruneImagesRequest, PruneImagesResponse};
use tracing::info;

use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::image::{admin_image, is_pinned};

pub(crate) async fn call(node: &Arc<Node>, request: PruneImagesRequest) -> Result<PruneImagesResponse, Error> {
    node.block(move |node| prune(node, request.dry_run)).await
}

fn prune(node: &Node, dry_run: bool) -> Result<PruneImagesResponse, Error> {
    let before = node.images.usage()?.bytes;
    let mut images = Vec::new();
    for image in node.images.list() {
        // Asked for each one anew: a container may have been created meanwhile.
        if is_pinned(&node.config.image.pinned, &image) || used(node)?.contains(&image.id) {
            continue;
        }
        if !dry_run {
            node.images.remove(&image.id)?;
            info!(id = %image.id, names = ?image.repo_tags, "pruned an image");
        }
        images.push(admin_image(&image));
    }
    if !dry_run {
        node.images.collect();
    }
    let freed = if dry_run { 0 } else { before.saturating_sub(node.images.usage()?.bytes) };
    Ok(PruneImagesResponse { images, freed })
}

/// The ids of the images that containers use.
fn used(node: &Node) -> Result<HashSet<String>, Error> {
    let mut used = HashSet::new();
    for container in node.store.containers_in_any_phase() {
        used.insert(container.image_id.clone());
        let volumes = container.config.mounts.iter().filter_map(|mount| mount.image.as_ref());
        for volume in volumes {
            let found: Option<Image> = node.images.find(&volume.image)?;
            used.extend(found.map(|image| image.id));
        }
    }
    Ok(used)
}
