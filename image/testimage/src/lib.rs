//! Builds OCI images from trees of files, and serves them from a registry in memory: for `cellblock demo` and the tests of image,
//! cri and e2e, which need no other images. Equal input gives equal digests.

mod image;
mod registry;

pub use image::{ARCHITECTURE, Blob, Compression, Config, Image, Layer, Node, Tree, index};
pub use registry::{Contents, serve, serve_on};
