//! Reads an archive of images into the content store. Every file becomes a blob, verified where its name tells its digest; the
//! files that describe the archive are kept in memory. Pins keep the blobs until the import ends; whatever no image uses then is
//! garbage.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::{BLOBS, DOCKER, INDEX, LAYOUT};
use crate::document::{Blob, LAYER_BYTES_MAX, LAYER_TYPES, MANIFEST_BYTES_MAX};
use crate::pull::Work;
use crate::unpack::{Entries, Failure, Kind, Refusal};
use crate::{Algorithm, Digest, Error};

/// Entries of an archive: docker's old form has three for each layer.
const ENTRIES_MAX: usize = 64 << 10;
/// Bytes of all files together.
const BYTES_MAX: u64 = 256 << 30;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;
/// Links from one file of an archive to the next: docker's old form has one for a layer that is there already.
const LINKS_MAX: usize = 8;
const WHAT: &str = "archive";

/// How an archive may be compressed, its first bytes, and the program that decompresses it. gzip is read here; the others are
/// not, since the parser of a stranger's bytes in a server with all rights should be a safe one.
const COMPRESSIONS: [(&str, &[u8], &str); 4] = [
    ("gzip", &[0x1f, 0x8b], ""),
    ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    ("zstd", &[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    ("bzip2", b"BZh", "bzip2"),
];

/// The contents of an archive.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) layout: Option<Vec<u8>>,
    pub(super) index: Option<Vec<u8>>,
    pub(super) docker: Option<Vec<u8>>,
    pub(super) files: HashMap<String, File>,
    pub(super) links: HashMap<String, String>,
}

/// A file that became a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) blob: Blob,
    /// The media type that it has as a layer, by its first bytes.
    pub(super) layer_type: &'static str,
}

impl Contents {
    /// Finds a file by its path, through links.
    pub(super) fn file(&self, path: &str) -> Result<&File, Error> {
        let mut name = normal(path);
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&name) {
                return Ok(file);
            }
            let Some(target) = self.links.get(&name) else { break };
            name.clone_from(target);
        }
        Err(Error::invalid(WHAT, format!("it has no file {path:?}")))
    }

    #[cfg(test)]
    pub(super) fn with_file(mut self, path: &str, file: File) -> Self {
        self.files.insert(path.to_owned(), file);
        self
    }
}

/// Reads an archive to its end. Blocking.
pub(super) fn read(work: &Work, archive: impl Read) -> Result<Contents, Error> {
    let mut input = BufReader::with_capacity(BUFFER, archive);
    let head = input.fill_buf().map_err(|error| unreadable(&error))?;
    match COMPRESSIONS.iter().find(|(_, magic, _)| head.starts_with(magic)) {
        None => entries(work, &mut Entries::new(input)),
        Some((_, _, "")) => {
            let plain = BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input));
            entries(work, &mut Entries::new(plain))
        }
        Some((name, _, program)) => {
            Err(Error::invalid(WHAT, format!("it is compressed with {name}: import the output of {program} -dc")))
        }
    }
}

fn entries(work: &Work, entries: &mut Entries<impl BufRead>) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    let (mut count, mut bytes) = (0, 0u64);
    while let Some(entry) = entries.next().map_err(refused)? {
        count += 1;
        if count > ENTRIES_MAX {
            return Err(Error::invalid(WHAT, format!("it has more than {ENTRIES_MAX} entries")));
        }
        let Ok(path) = std::str::from_utf8(&entry.path).map(normal) else { continue };
        match &entry.kind {
            Kind::File => {}
            Kind::Symlink(target) | Kind::Hardlink(target) => {
                let Ok(target) = std::str::from_utf8(target) else { continue };
                let base = if matches!(entry.kind, Kind::Symlink(_)) { path.rsplit_once('/') } else { None };
                let target = base.map_or_else(|| normal(target), |(base, _)| normal(&format!("{base}/{target}")));
                contents.links.insert(path, target);
                continue;
            }
            _ => continue,
        }
        if entry.extents != [(0, entry.size)] {
            return Err(Error::invalid(WHAT, format!("file {path:?} is sparse: write it with --no-read-sparse")));
        }
        bytes = bytes.saturating_add(entry.size);
        if bytes > BYTES_MAX {
            return Err(Error::invalid(WHAT, format!("its files have more than {BYTES_MAX} bytes")));
        }
        match path.as_str() {
            LAYOUT => contents.layout = Some(document(entries, &path, entry.size)?),
            INDEX => contents.index = Some(document(entries, &path, entry.size)?),
            DOCKER => contents.docker = Some(document(entries, &path, entry.size)?),
            _ => {
                let file = keep(work, entries, &path, entry.size)?;
                contents.files.insert(path, file);
            }
        }
    }
    Ok(contents)
}

/// Reads a file that describes the archive.
fn document(entries: &mut impl Read, path: &str, size: u64) -> Result<Vec<u8>, Error> {
    if size > MANIFEST_BYTES_MAX {
        return Err(Error::invalid(WHAT, format!("{path} has {size} bytes, at most {MANIFEST_BYTES_MAX} are read")));
    }
    let mut bytes = Vec::new();
    entries.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    Ok(bytes)
}

/// Makes a file a blob.
fn keep(work: &Work, entries: &mut impl Read, path: &str, size: u64) -> Result<File, Error> {
    if size > LAYER_BYTES_MAX {
        return Err(Error::invalid(WHAT, format!("{path} has {size} bytes, at most {LAYER_BYTES_MAX} are read")));
    }
    let named = named(path)?;
    let mut ingest = work.shared.blobs.begin_unnamed(named.as_ref().map_or(Algorithm::Sha256, Digest::algorithm))?;
    let mut buffer = vec![0; BUFFER];
    let mut head = None;
    loop {
        let read = entries.read(&mut buffer).map_err(|error| unreadable(&error))?;
        if read == 0 {
            break;
        }
        let first = &buffer[..read.min(4)];
        head.get_or_insert_with(|| layer_type(first));
        ingest.write(&buffer[..read])?;
    }
    let blob = Blob::new(ingest.digest(), size);
    if let Some(named) = named.filter(|named| *named != blob.digest) {
        return Err(Error::invalid(format!("blob {named}"), format!("its contents have the digest {}", blob.digest)));
    }
    let name = blob.digest.to_string();
    work.pin(&name);
    let _lock = work.shared.locks.blocking_lock(&name);
    work.shared.blobs.finish_unnamed(ingest, size)?;
    Ok(File { blob, layer_type: head.unwrap_or(LAYER_TYPES[0]) })
}

/// The digest that the path of a blob tells.
fn named(path: &str) -> Result<Option<Digest>, Error> {
    let Some((directory, digits)) = path.strip_prefix(BLOBS).and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
    else {
        return Ok(None);
    };
    format!("{directory}:{digits}").parse().map(Some)
}

fn layer_type(head: &[u8]) -> &'static str {
    let is = |name: &str| COMPRESSIONS.iter().any(|(known, magic, _)| *known == name && head.starts_with(magic));
    match () {
        () if is("gzip") => LAYER_TYPES[1],
        () if is("zstd") => LAYER_TYPES[2],
        () => LAYER_TYPES[0],
    }
}

/// A path without empty components, `.` and `..`. It names a file in the archive and is never opened.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn refused(failure: Failure) -> Error {
    match failure.refusal {
        Refusal::Invalid => Error::invalid(WHAT, failure.reason),
        Refusal::Full | Refusal::Failed => Error::failed("cannot read the archive")(failure),
    }
}

fn unreadable(error: &io::Error) -> Error {
    refused(crate::unpack::unreadable(error))
}

#[cfg(test)]
mod tests {
    use super::{named, normal};
    use crate::Digest;

    #[test]
    fn paths_are_names_in_the_archive() {
        for (path, name) in [
            ("./index.json", "index.json"),
            ("/blobs//sha256/./a", "blobs/sha256/a"),
            ("a/../b/layer.tar", "b/layer.tar"),
            ("../../etc/passwd", "etc/passwd"),
            ("", ""),
        ] {
            assert_eq!(normal(path), name);
        }
    }

    #[test]
    fn a_blob_is_named_by_its_digest() {
        let digest = Digest::of(b"x");
        assert_eq!(named(&format!("blobs/sha256/{}", digest.hex())).unwrap(), Some(digest.clone()));
        for path in ["manifest.json", "blobs", "blobs.txt", "abc/layer.tar"] {
            assert_eq!(named(path).unwrap(), None, "{path}");
        }
        for path in ["blobs/sha256/x", "blobs/md5/0", &format!("blobs/sha512/{}", digest.hex())] {
            assert!(named(path).is_err(), "{path}");
        }
    }
}
