//! The records of the images: one JSON file with a version, replaced atomically, so that a tag never belongs to two images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::reserve::Reserve;
use serde::{Deserialize, Serialize};

use crate::document::ImageConfig;
use crate::reference::{Reference, Target};
use crate::rootfs::ChainId;
use crate::{Digest, Error};

/// The written version. A newer one is refused.
const VERSION: u32 = 1;
const MODE: u32 = 0o600;
/// Bytes reserved for the removal of an image on a full disk: twice the records of a hundred images.
const RESERVE: usize = 1 << 20;

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The compressed blob.
    pub(crate) blob: Digest,
    /// The digest of its uncompressed bytes.
    pub(crate) diff_id: Digest,
}

/// The record of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// The digest of its configuration.
    pub(crate) id: Digest,
    /// `docker.io/library/busybox:latest` …
    pub(crate) tags: BTreeSet<String>,
    /// `docker.io/library/busybox@sha256:…` …
    pub(crate) digests: BTreeSet<String>,
    /// The indexes and manifests that lead to it.
    pub(crate) documents: BTreeSet<Digest>,
    /// The layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
    /// The blobs of the same layers in its other manifests, where they are compressed in another way. Earlier servers kept none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) others: BTreeSet<Digest>,
    /// Downloaded bytes: documents, configuration and layers.
    pub(crate) size: u64,
    /// The defaults for containers.
    pub(crate) config: ImageConfig,
}

impl ImageRecord {
    /// The chain of each layer, the lowest first.
    pub(crate) fn chains(&self) -> Vec<ChainId> {
        chains(self.layers.iter().map(|layer| &layer.diff_id))
    }

    /// Its blobs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let layers = self.layers.iter().map(|layer| &layer.blob);
        self.documents.iter().chain([&self.id]).chain(layers).chain(&self.others)
    }
}

/// Chain IDs by the OCI image specification: the lowest is the layer's diff ID, each other the digest of the chain ID below and
/// its diff ID, separated by a space. An image without layers has a chain too, an empty directory.
pub(crate) fn chains<'a>(diff_ids: impl Iterator<Item = &'a Digest>) -> Vec<ChainId> {
    let mut chains: Vec<ChainId> = Vec::new();
    for diff_id in diff_ids {
        chains.push(match chains.last() {
            None => ChainId(diff_id.to_string()),
            Some(below) => ChainId(Digest::of(format!("{} {diff_id}", below.0).as_bytes()).to_string()),
        });
    }
    if chains.is_empty() {
        chains.push(ChainId(Digest::of(b"").to_string()));
    }
    chains
}

#[derive(Debug, Deserialize)]
struct Stored {
    images: Vec<ImageRecord>,
}

#[derive(Serialize)]
struct Storing<'a> {
    version: u32,
    images: Vec<&'a ImageRecord>,
}

/// The images by their ids. A change copies the records that it changes, and no other one.
type ById = BTreeMap<Digest, Arc<ImageRecord>>;

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The images by their ids, and their file.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    reserve: Reserve,
    images: ById,
}

impl Records {
    /// Reads the file; a missing one means no images. An unreadable file is an error and is left unchanged.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("images.json");
        let reserve = Reserve::open(&path.with_extension("reserve"), RESERVE);
        let Some(value) = host::json::read::<serde_json::Value>(&path).map_err(Error::of_file(&path))? else {
            return Ok(Self { path, reserve, images: BTreeMap::new() });
        };
        let found = Version::deserialize(&value).map_err(Error::unreadable(&path))?;
        if found.version != VERSION {
            let reason = format!(
                "has version {}, this program reads version {VERSION}: it was written by another one",
                found.version
            );
            return Err(Error::invalid(path.display().to_string(), reason));
        }
        let stored = Stored::deserialize(value).map_err(Error::unreadable(&path))?;
        let images = stored.images.into_iter().map(|image| (image.id.clone(), Arc::new(image))).collect();
        Ok(Self { path, reserve, images })
    }

    /// All images.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ImageRecord> {
        self.images.values().map(Arc::as_ref)
    }

    /// Finds an image by a reference, an id or a unique prefix of an id.
    pub(crate) fn find(&self, name: &str) -> Result<Option<&ImageRecord>, Error> {
        if let Ok(id) = name.parse::<Digest>() {
            return Ok(self.images.get(&id).map(Arc::as_ref));
        }
        let reference = Reference::parse(name);
        if let Ok(reference) = &reference
            && let Some(found) = self.called(reference)
        {
            return Ok(Some(found));
        }
        let digits = name.strip_prefix("sha256:").or_else(|| name.strip_prefix("sha512:")).unwrap_or(name);
        if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return reference.map(|_| None);
        }
        let mut matching = self.all().filter(|image| image.id.hex().starts_with(digits));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(Error::invalid("image id", format!("{name:?} is the beginning of several"))),
            (found, _) => Ok(found),
        }
    }

    fn called(&self, reference: &Reference) -> Option<&ImageRecord> {
        let name = reference.to_string();
        self.all().find(|image| image.tags.contains(&name) || image.digests.contains(&name))
    }

    /// Adds an image that was pulled by this reference, whose document has this digest. A tag moves away from its former image; the
    /// image keeps its other names.
    pub(crate) fn add(
        &mut self,
        image: ImageRecord,
        reference: &Reference,
        document: &Digest,
    ) -> Result<ImageRecord, Error> {
        let added = self.add_all(vec![(image, reference.clone(), document.clone())])?;
        Ok(added.into_iter().next().expect("one was added"))
    }

    /// Adds several images at once, or none.
    pub(crate) fn add_all(&mut self, added: Vec<(ImageRecord, Reference, Digest)>) -> Result<Vec<ImageRecord>, Error> {
        let mut images = self.images.clone();
        let ids: BTreeSet<Digest> = added.iter().map(|(image, ..)| image.id.clone()).collect();
        for (image, reference, document) in added {
            insert(&mut images, image, &reference, &document);
        }
        self.write(&images)?;
        self.images = images;
        self.reserve.restore();
        Ok(ids.iter().filter_map(|id| self.images.get(id)).map(|image| ImageRecord::clone(image)).collect())
    }

    /// Removes an image with all its names.
    pub(crate) fn remove(&mut self, id: &Digest) -> Result<(), Error> {
        let mut images = self.images.clone();
        images.remove(id);
        self.reserve.spend(|| self.write(&images))?;
        self.images = images;
        Ok(())
    }

    fn write(&self, images: &ById) -> Result<(), Error> {
        let storing = Storing { version: VERSION, images: images.values().map(Arc::as_ref).collect() };
        let bytes = serde_json::to_vec_pretty(&storing).expect("records have string keys only");
        host::fs::write_atomic(&self.path, &bytes, MODE)
            .map_err(Error::io(format!("cannot write {}", self.path.display())))
    }
}

/// Adds an image under a name to others.
fn insert(images: &mut ById, mut image: ImageRecord, reference: &Reference, document: &Digest) {
    if let Some(known) = images.get(&image.id) {
        image.tags.extend(known.tags.iter().cloned());
        image.digests.extend(known.digests.iter().cloned());
        image.documents.extend(known.documents.iter().cloned());
        image.others.extend(known.layers.iter().map(|layer| layer.blob.clone()).chain(known.others.iter().cloned()));
        let ImageRecord { layers, others, .. } = &mut image;
        others.retain(|blob| layers.iter().all(|layer| layer.blob != *blob));
    }
    image.digests.insert(reference.at(document).to_string());
    if let Target::Tag(_) = reference.target() {
        let tag = reference.to_string();
        for other in images.values_mut().filter(|other| other.tags.contains(&tag)) {
            Arc::make_mut(other).tags.remove(&tag);
        }
        image.tags.insert(tag);
    }
    images.insert(image.id.clone(), Arc::new(image));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ImageRecord, Records, chains};
    use crate::document::ImageConfig;
    use crate::{Digest, Error, Reference};

    fn image(name: &str) -> ImageRecord {
        ImageRecord {
            id: Digest::of(name.as_bytes()),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            documents: BTreeSet::from([Digest::of(b"document")]),
            layers: Vec::new(),
            others: BTreeSet::new(),
            size: 1,
            config: ImageConfig::default(),
        }
    }

    fn add(records: &mut Records, name: &str, reference: &str) -> ImageRecord {
        records.add(image(name), &Reference::parse(reference).unwrap(), &Digest::of(reference.as_bytes())).unwrap()
    }

    #[test]
    fn images_are_found_by_each_of_their_names_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let added = add(&mut Records::open(root.path()).unwrap(), "a", "busybox:1");
        let records = Records::open(root.path()).unwrap();
        let by_digest = format!("busybox@{}", Digest::of(b"busybox:1"));
        for name in [
            "busybox:1",
            "docker.io/library/busybox:1",
            &by_digest,
            added.id.as_str(),
            added.id.hex(),
            &added.id.hex()[..13],
            &added.id.as_str()[..20],
        ] {
            assert_eq!(records.find(name).unwrap(), Some(&added), "{name}");
        }
        for name in ["busybox", "busybox:2", "0000", Digest::of(b"none").as_str()] {
            assert_eq!(records.find(name).unwrap(), None, "{name}");
        }
        assert!(matches!(records.find("Not A Name"), Err(Error::Invalid { .. })));
    }

    #[test]
    fn the_beginning_of_two_ids_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut records = Records::open(root.path()).unwrap();
        // Two of 17 images share their first digit.
        (0..17).for_each(|n| drop(add(&mut records, &n.to_string(), &format!("i:{n}"))));
        let firsts: Vec<char> = records.all().map(|image| image.id.hex().chars().next().unwrap()).collect();
        let shared = firsts.iter().find(|first| firsts.iter().filter(|other| other == first).count() > 1).unwrap();
        assert!(matches!(records.find(&shared.to_string()), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_tag_moves_and_the_image_that_lost_it_keeps_its_digest() {
        let root = tempfile::tempdir().unwrap();
        let mut records = Records::open(root.path()).unwrap();
        let old = add(&mut records, "old", "busybox:1");
        let new = records.add(image("new"), &Reference::parse("busybox:1").unwrap(), &Digest::of(b"moved")).unwrap();
        assert_eq!(records.find("busybox:1").unwrap(), Some(&new));
        let kept = records.find(old.id.as_str()).unwrap().unwrap();
        assert!(kept.tags.is_empty() && kept.digests == old.digests);
    }

    #[test]
    fn two_tags_of_one_image_are_one_image() {
        let root = tempfile::tempdir().unwrap();
        let mut records = Records::open(root.path()).unwrap();
        add(&mut records, "a", "busybox:1");
        let both = add(&mut records, "a", "busybox:2");
        assert_eq!(Vec::from_iter(&both.tags), ["docker.io/library/busybox:1", "docker.io/library/busybox:2"]);
        records.remove(&both.id).unwrap();
        assert_eq!(Records::open(root.path()).unwrap().all().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_left_alone() {
        for (contents, reason) in [
            ("{", "left unchanged"),
            (r#"{"version":2,"images":{}}"#, "version 2"),
            (r#"{"version":1}"#, "left unchanged"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("images.json");
            std::fs::write(&path, contents).unwrap();
            let error = Records::open(root.path()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        }
    }

    #[test]
    fn version_1_is_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("images.json"), include_str!("../tests/fixtures/images-v1.json")).unwrap();
        let records = Records::open(root.path()).unwrap();
        let image = records.find("registry.k8s.io/pause:3.10").unwrap().unwrap();
        assert_eq!((image.size, image.config.user.as_str(), image.layers.len()), (320_448, "65535:65535", 1));
    }

    #[test]
    fn chains_follow_the_specification() {
        let ids = [Digest::of(b"a"), Digest::of(b"b")];
        let made = chains(ids.iter());
        assert_eq!(made[0].0, ids[0].as_str());
        assert_eq!(made[1].0, Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes()).as_str());
        assert_eq!(chains([].iter()).len(), 1);
    }
}
