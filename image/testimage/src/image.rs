//! Builds layers from trees of files, images from layers and a configuration, and indexes from images. Equal input gives equal
//! digests: nothing depends on the clock or on the order of a directory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compression as Level, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The architecture of this machine as a GOARCH, which OCI uses.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
/// The time of every file and image: a constant, so that builds are reproducible.
const MTIME: u64 = 1_700_000_000;
/// Media types (OCI image specification, "OCI Image Media Types").
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// One entry of a layer.
#[derive(Debug, Clone)]
pub enum Node {
    /// A directory with its mode.
    Directory(u32),
    /// A file with its mode and contents.
    File(u32, Arc<[u8]>),
    /// A hard link to another entry.
    HardLink(String),
    /// A symbolic link.
    Symlink(String),
}

/// The files of one layer by path, without a leading slash. Parent directories are optional.
#[derive(Debug, Clone, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds an entry.
    #[must_use]
    pub fn with(mut self, path: &str, node: Node) -> Self {
        self.0.insert(path.to_owned(), node);
        self
    }

    /// Adds a file of mode 0644.
    #[must_use]
    pub fn file(self, path: &str, contents: &str) -> Self {
        self.with(path, Node::File(0o644, contents.as_bytes().into()))
    }

    /// Adds an executable file of mode 0755.
    #[must_use]
    pub fn program(self, path: &str, contents: &[u8]) -> Self {
        self.with(path, Node::File(0o755, contents.into()))
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.with(path, Node::Directory(mode))
    }

    /// Reads every file below a directory, with its mode.
    ///
    /// # Errors
    /// A file cannot be read, or a name or a link's target is not UTF-8.
    pub fn of_directory(root: &Path) -> io::Result<Self> {
        let not_text = |path: &Path| io::Error::other(format!("{}: a name that is not UTF-8", path.display()));
        let mut tree = Self::default();
        let mut waiting = vec![root.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                let name = path.strip_prefix(root).expect("it was found below the root");
                let name = name.to_str().ok_or_else(|| not_text(&path))?.to_owned();
                let metadata = path.symlink_metadata()?;
                let mode = metadata.mode() & 0o7777;
                let node = if metadata.is_dir() {
                    waiting.push(path);
                    Node::Directory(mode)
                } else if metadata.is_symlink() {
                    let target = std::fs::read_link(&path)?;
                    Node::Symlink(target.into_os_string().into_string().map_err(|_| not_text(&path))?)
                } else {
                    Node::File(mode, std::fs::read(&path)?.into())
                };
                tree = tree.with(&name, node);
            }
        }
        Ok(tree)
    }

    /// Makes the layer, compressed with gzip.
    ///
    /// # Errors
    /// A path that a tar archive cannot hold.
    pub fn layer(&self) -> io::Result<Layer> {
        Layer::new(&self.tar()?, Compression::Gzip)
    }

    /// Makes the layer's archive.
    ///
    /// # Errors
    /// A path that a tar archive cannot hold.
    pub fn tar(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        // Files before hard links: the target of a link must exist.
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
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
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
        archive.into_inner()
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, as most registries hold layers.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Bytes with their digest and their media type.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The media type.
    pub media_type: &'static str,
    /// `sha256:…`.
    pub digest: String,
    /// The bytes.
    pub bytes: Bytes,
}

impl Blob {
    fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { media_type, digest: digest(&bytes), bytes }
    }

    /// The descriptor of the blob.
    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// A compressed layer and its diff ID.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The archive, compressed.
    pub blob: Blob,
    diff_id: String,
}

impl Layer {
    /// Compresses an archive.
    ///
    /// # Errors
    /// The compressor fails.
    pub fn new(tar: &[u8], compression: Compression) -> io::Result<Self> {
        let (media_type, bytes) = match compression {
            Compression::None => ("application/vnd.oci.image.layer.v1.tar", tar.to_vec()),
            Compression::Gzip => {
                let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Level::fast());
                gzip.write_all(tar)?;
                ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish()?)
            }
            Compression::Zstd => ("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(tar, 1)?),
        };
        Ok(Self { blob: Blob::new(media_type, bytes), diff_id: digest(tar) })
    }

    /// The digest of the archive.
    #[must_use]
    pub fn diff_id(&self) -> &str {
        &self.diff_id
    }
}

/// The configuration of an image. Empty fields are left out, unless their comment says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// User and group, as in a Dockerfile.
    pub user: &'static str,
    /// The entry point.
    pub entrypoint: Vec<&'static str>,
    /// The entry point's arguments, or the command without an entry point.
    pub cmd: Vec<&'static str>,
    /// The environment; empty: a PATH of the usual directories.
    pub env: Vec<&'static str>,
    /// The working directory.
    pub working_dir: &'static str,
    /// The paths that it declares as volumes.
    pub volumes: Vec<&'static str>,
    /// The signal that stops it.
    pub stop_signal: &'static str,
    /// The operating system as a GOOS; empty: linux.
    pub os: &'static str,
    /// The architecture as a GOARCH; empty: this machine's.
    pub architecture: &'static str,
}

impl Config {
    fn document(&self, layers: &[Layer]) -> Value {
        let or = |text: &'static str, default: &'static str| if text.is_empty() { default } else { text };
        let path = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
        let env = if self.env.is_empty() { &path } else { &self.env };
        let mut run = BTreeMap::<&str, Value>::from([("Env", json!(env))]);
        for (key, text) in [("User", self.user), ("WorkingDir", self.working_dir), ("StopSignal", self.stop_signal)] {
            if !text.is_empty() {
                run.insert(key, json!(text));
            }
        }
        for (key, words) in [("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd)] {
            if !words.is_empty() {
                run.insert(key, json!(words));
            }
        }
        if !self.volumes.is_empty() {
            let volumes: BTreeMap<&str, Value> = self.volumes.iter().map(|path| (*path, json!({}))).collect();
            run.insert("Volumes", json!(volumes));
        }
        json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": or(self.architecture, ARCHITECTURE),
            "os": or(self.os, "linux"),
            "config": run,
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "testimage"}],
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
        })
    }
}

/// An image, ready to be served or pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Configuration and layers.
    pub blobs: Vec<Blob>,
    /// The manifest, whose digest names the image in a registry.
    pub manifest: Blob,
}

impl Image {
    /// Makes an image of these layers.
    #[must_use]
    pub fn new(layers: &[Layer], config: &Config) -> Self {
        Self::with_document(layers, &config.document(layers))
    }

    /// Makes an image with this configuration, which need not match the layers.
    #[must_use]
    pub fn with_document(layers: &[Layer], config: &Value) -> Self {
        let config = Blob::new(CONFIG, config.to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(|layer| layer.blob.descriptor()).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(MANIFEST, manifest.to_string());
        let blobs = std::iter::once(config).chain(layers.iter().map(|layer| layer.blob.clone())).collect();
        Self { blobs, manifest }
    }
}

/// Makes an index of platforms (`os/architecture`), each with the descriptor of its manifest.
///
/// # Panics
/// For a platform without a slash.
#[must_use]
pub fn index(entries: &[(&str, Value)]) -> Blob {
    let entry = |(platform, manifest): &(&str, Value)| {
        let (os, architecture) = platform.split_once('/').expect("a platform is os/architecture");
        let mut entry = manifest.clone();
        entry["platform"] = json!({ "os": os, "architecture": architecture });
        entry
    };
    let manifests: Vec<Value> = entries.iter().map(entry).collect();
    Blob::new(INDEX, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::{Compression, Layer, Node, Tree, digest};

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

    #[test]
    fn a_layer_is_named_by_its_archive_however_it_is_compressed() {
        let tar = Tree::default().file("a", "x").tar().unwrap();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let layer = Layer::new(&tar, compression).unwrap();
            assert_eq!(layer.diff_id, digest(&tar));
            assert_eq!(layer.blob.bytes.as_ref() == tar, compression == Compression::None);
        }
    }
}
