//! An export: writes images as one archive that docker, podman, skopeo, containerd and `import` read: an OCI image layout, with
//! docker's `manifest.json` beside it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::json;

use super::layout::DockerImage;
use super::{BLOBS, DOCKER, INDEX, LAYOUT, NAME, REF_NAME};
use crate::document::{
    Blob, CONFIG_BYTES_MAX, Document, INDEX as INDEX_TYPE, MANIFEST_BYTES_MAX, media_type, parse_manifest,
};
use crate::garbage::Claims;
use crate::images::Shared;
use crate::locks::hold;
use crate::records::ImageRecord;
use crate::{Digest, Error, Reference, Target};

/// The time of every entry: an image that is exported twice gives the same bytes.
const MTIME: u64 = 0;

/// An image with the names under which it is exported.
struct Chosen {
    record: ImageRecord,
    /// The names, each with the document that leads to the image.
    names: Vec<(Reference, Digest)>,
}

/// Writes images as an archive. Blocking.
///
/// # Errors
/// [`Error::NotFound`] for an image; [`Error::Invalid`] for none at all; the writer or the disk fails.
pub(crate) fn export(shared: &Arc<Shared>, names: &[String], writer: impl Write) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::invalid("images", "none is named"));
    }
    let pins = Claims::new(shared);
    let mut images: Vec<Chosen> = Vec::new();
    for name in names {
        let records = hold(&shared.records);
        let record = records.find(name)?.cloned().ok_or_else(|| Error::not_found(format!("image {name:?}")))?;
        // Pinned while the records are locked: a removal after this collects nothing of it.
        record.blobs().for_each(|blob| pins.add(blob.as_str()));
        drop(records);
        let found = names_of(&record, name)?;
        match images.iter_mut().find(|image| image.record.id == record.id) {
            Some(known) => known.names.extend(found),
            None => images.push(Chosen { record, names: found }),
        }
    }
    for image in &mut images {
        image.names.sort_by_key(|(reference, _)| reference.to_string());
        image.names.dedup();
    }
    write(shared, &images, writer)
}

/// The names of an image that a request means: the requested one, or all of an image that is requested by its id.
fn names_of(record: &ImageRecord, requested: &str) -> Result<Vec<(Reference, Digest)>, Error> {
    let asked = Reference::parse(requested).map(|reference| reference.to_string()).unwrap_or_default();
    let names: Vec<&String> = if record.tags.contains(&asked) || record.digests.contains(&asked) {
        vec![&asked]
    } else if record.tags.is_empty() {
        record.digests.iter().collect()
    } else {
        record.tags.iter().collect()
    };
    names.into_iter().map(|name| document_of(record, Reference::parse(name)?)).collect()
}

/// Finds the document that leads from a name to its image: the digest under which the same repository has it.
fn document_of(record: &ImageRecord, name: Reference) -> Result<(Reference, Digest), Error> {
    if let Target::Digest(digest) = name.target() {
        let digest = digest.clone();
        return Ok((name, digest));
    }
    let digests = record.digests.iter().filter_map(|digest| Reference::parse(digest).ok());
    let own = digests.filter(|digest| (digest.domain(), digest.path()) == (name.domain(), name.path()));
    let mut documents = own.filter_map(|reference| match reference.target() {
        Target::Digest(digest) => Some(digest.clone()),
        Target::Tag(_) => None,
    });
    let document = documents.next().ok_or_else(|| Error::not_found(format!("the document of image {name}")))?;
    Ok((name, document))
}

fn write(shared: &Shared, images: &[Chosen], writer: impl Write) -> Result<(), Error> {
    let mut archive = Archive { tar: tar::Builder::new(writer) };
    archive.file(LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let (mut entries, mut docker) = (Vec::new(), Vec::new());
    let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
    for Chosen { record, names } in images {
        let mut layers = None;
        for document in &record.documents {
            let bytes = shared.blobs.read(&Blob::new(document.clone(), MANIFEST_BYTES_MAX))?;
            let parsed = parse_manifest(&bytes)?;
            let (media_type, size) = (media_type(&bytes, &parsed), bytes.len() as u64);
            for (name, _) in names.iter().filter(|(_, lead)| lead == document) {
                let annotations = annotations(name);
                entries.push(json!({
                    "mediaType": media_type, "digest": document, "size": size, "annotations": annotations,
                }));
            }
            match parsed {
                // An earlier server kept the blobs of one manifest only.
                Document::Manifest { config, layers: found }
                    if config.digest == record.id
                        && found.iter().all(|layer| record.blobs().any(|blob| *blob == layer.digest)) =>
                {
                    // Their files' sizes: an earlier server believed the manifest about a blob that was there.
                    blobs.extend(found.iter().map(|layer| (layer.digest.clone(), shared.blobs.size(&layer.digest))));
                    layers = Some(found);
                }
                _ => {}
            }
            blobs.insert(document.clone(), size);
        }
        let config = shared.blobs.read(&Blob::new(record.id.clone(), CONFIG_BYTES_MAX))?;
        blobs.insert(record.id.clone(), config.len() as u64);
        let layers = layers.ok_or_else(|| Error::not_found(format!("the manifest of image {}", record.id)))?;
        docker.push(DockerImage {
            config: path(&record.id),
            repo_tags: Some(tags(names)),
            layers: layers.iter().map(|layer| path(&layer.digest)).collect(),
        });
    }
    for (digest, size) in &blobs {
        archive.append(&path(digest), *size, shared.blobs.file(digest)?)?;
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries });
    archive.file(INDEX, index.to_string().as_bytes())?;
    archive.file(DOCKER, json!(docker).to_string().as_bytes())?;
    archive.finish()
}

/// The annotations of a name in `index.json`.
fn annotations(name: &Reference) -> BTreeMap<&'static str, String> {
    let mut annotations = BTreeMap::from([(NAME, name.to_string())]);
    if let Target::Tag(tag) = name.target() {
        annotations.insert(REF_NAME, tag.clone());
    }
    annotations
}

/// The names for docker, which knows tags only.
fn tags(names: &[(Reference, Digest)]) -> Vec<String> {
    let tagged = names.iter().filter(|(name, _)| matches!(name.target(), Target::Tag(_)));
    tagged.map(|(name, _)| name.to_string()).collect()
}

fn path(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The tar archive that is being written.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
}

impl<W: Write> Archive<W> {
    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.append(path, bytes.len() as u64, bytes)
    }

    fn append(&mut self, path: &str, size: u64, contents: impl Read) -> Result<(), Error> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(MTIME);
        header.set_uid(0);
        header.set_gid(0);
        let mut contents = Counted { source: contents.take(size), left: size };
        self.tar.append_data(&mut header, path, &mut contents).map_err(Error::io(format!("cannot export {path}")))?;
        if contents.left > 0 {
            return Err(Error::invalid(path, format!("its file lacks {} of {size} bytes", contents.left)));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Error> {
        self.tar.finish().map_err(Error::io("cannot export images"))
    }
}

/// Counts what is read: a file that is shorter than its header says would shift all that follows.
struct Counted<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}
