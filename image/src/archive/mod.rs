//! Archives of images: tar files as docker save, skopeo, podman and containerd write and read them. An OCI image layout
//! (`oci-layout`, `index.json`, `blobs/`) and docker's `manifest.json` may be in the same file, and are in those written here.

mod export;
mod import;
mod intake;
mod layout;

pub(crate) use export::export;
pub(crate) use import::import;

/// The files that describe an archive.
const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";
const DOCKER: &str = "manifest.json";
/// The directory of the blobs in an OCI image layout, by algorithm.
const BLOBS: &str = "blobs";

/// The annotation with the whole name of an image, which containerd and docker write.
const NAME: &str = "io.containerd.image.name";
/// The annotation of the OCI image specification: a whole name, or a tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
