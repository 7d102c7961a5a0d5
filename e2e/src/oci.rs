//! Makes OCI images from nothing: a tree of files becomes a layer, layers and a configuration become an image. Equal input
//! gives equal digests: no clock, no order of a directory.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The architecture of this machine in Go's words, which OCI uses.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
/// The time of every file and image: images must not differ from run to run.
const MTIME: u64 = 1_700_000_000;

/// One entry of a layer.
#[derive(Debug, Clone)]
pub enum Node {
    /// A directory with its mode.
    Directory(u32),
    /// A file with its mode and contents.
    File(u32, Arc<[u8]>),
    /// Another name for an entry that sorts before it.
    HardLink(String),
    /// A symbolic link.
    Symlink(String),
}

/// The files of one layer by path, without a leading slash. Directories above a file need not be listed.
#[derive(Debug, Clone, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds an entry.
    #[must_use]
    pub fn with(mut self, path: &str, node: Node) -> Self {
        self.0.insert(path.to_owned(), node);
        self
    }

    /// Adds a file that everybody can read.
    #[must_use]
    pub fn file(self, path: &str, contents: &str) -> Self {
        self.with(path, Node::File(0o644, contents.as_bytes().into()))
    }

    /// Adds a file that everybody can run.
    #[must_use]
    pub fn program(self, path: &str, contents: &[u8]) -> Self {
        self.with(path, Node::File(0o755, contents.into()))
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.with(path, Node::Directory(mode))
    }

    /// Every file below a directory, with its mode.
    pub fn of_directory(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut waiting = vec![root.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                let name = path.strip_prefix(root)?.to_str().context("the base system's names are ASCII")?.to_owned();
                let metadata = path.symlink_metadata()?;
                let mode = metadata.mode() & 0o7777;
                let node = if metadata.is_dir() {
                    waiting.push(path);
                    Node::Directory(mode)
                } else if metadata.is_symlink() {
                    let target = std::fs::read_link(&path)?;
                    Node::Symlink(target.into_os_string().into_string().ok().context("a link's target is ASCII")?)
                } else {
                    Node::File(mode, std::fs::read(&path)?.into())
                };
                tree = tree.with(&name, node);
            }
        }
        Ok(tree)
    }

    /// The layer.
    pub fn layer(&self) -> Result<Layer> {
        let mut archive = tar::Builder::new(Vec::new());
        // Files before hard links: a link's target must be there.
        let (links, others): (Vec<_>, Vec<_>) = self.0.iter().partition(|(_, node)| matches!(node, Node::HardLink(_)));
        for (path, node) in others.into_iter().chain(links) {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(MTIME);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match node {
                Node::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Node::File(mode, contents) => {
                    header.set_mode(*mode);
                    header.set_size(contents.len() as u64);
                    archive.append_data(&mut header, path, contents.as_ref())?;
                }
                Node::HardLink(target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_mode(0o755);
                    archive.append_link(&mut header, path, target)?;
                }
                Node::Symlink(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        let tar = archive.into_inner()?;
        let diff_id = digest(&tar);
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
        gzip.write_all(&tar)?;
        Ok(Layer { blob: Blob::new(gzip.finish()?), diff_id })
    }
}

/// Bytes with their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes: bytes.into() }
    }
}

/// A layer, compressed.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What is stored.
    pub blob: Blob,
    diff_id: String,
}

/// What an image says about how it is run.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// User and group, as in a Dockerfile.
    pub user: &'static str,
    /// What is run.
    pub entrypoint: Vec<&'static str>,
    /// Its arguments, or what is run without an entry point.
    pub cmd: Vec<&'static str>,
    /// The operating system, in Go's words, which OCI uses; empty: linux.
    pub os: &'static str,
}

/// An image, ready to be pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Configuration and layers.
    pub blobs: Vec<Blob>,
    /// The manifest; its digest is the image's in a registry.
    pub manifest: Blob,
}

/// The media type of the manifests that [`Image::new`] makes.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Image {
    /// An image of these layers.
    pub fn new(layers: &[Layer], config: &Config) -> Result<Self> {
        let mut run = BTreeMap::<&str, Value>::from([("Env", json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]))]);
        if !config.user.is_empty() {
            run.insert("User", json!(config.user));
        }
        if !config.entrypoint.is_empty() {
            run.insert("Entrypoint", json!(config.entrypoint));
        }
        if !config.cmd.is_empty() {
            run.insert("Cmd", json!(config.cmd));
        }
        let config = Blob::new(serde_json::to_vec(&json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": ARCHITECTURE,
            "os": if config.os.is_empty() { "linux" } else { config.os },
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
        }))?);
        let describe =
            |media: &str, blob: &Blob| json!({"mediaType": media, "digest": blob.digest, "size": blob.bytes.len()});
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let manifest = Blob::new(serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|of| describe(layer, &of.blob)).collect::<Vec<_>>(),
        }))?);
        let blobs = std::iter::once(config).chain(layers.iter().map(|layer| layer.blob.clone())).collect();
        Ok(Self { blobs, manifest })
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_trees_have_equal_digests() {
        let tree = || Tree::default().file("b", "x").with("a", Node::HardLink("b".into())).directory("tmp", 0o1777);
        let (one, two) = (tree().layer().unwrap(), tree().layer().unwrap());
        assert_eq!(one.blob.digest, two.blob.digest);
        assert_ne!(one.blob.digest, tree().file("c", "").layer().unwrap().blob.digest);
    }

    #[test]
    fn hard_links_follow_what_they_name() {
        let layer = Tree::default().with("a", Node::HardLink("b".into())).file("b", "x").layer().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.blob.bytes.as_ref()));
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [std::path::Path::new("b"), std::path::Path::new("a")]);
    }
}
