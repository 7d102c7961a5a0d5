//! OCI images made from trees of files, and a registry that serves them from memory: for `cellblock demo` and for the tests of
//! image, cri and e2e, so that none of them needs an image from elsewhere. Equal input gives equal digests.

mod image;
mod registry;

pub use image::{ARCHITECTURE, Blob, Compression, Config, Image, Layer, Node, Tree, index};
pub use registry::{Contents, serve};
