//! The image of `cellblock demo`: the running binary itself, with the libraries that it loads, as one layer. It is made anew
//! from the machine's own files, so the demo needs no network and no image from elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use object::Endianness;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use sha2::{Digest as _, Sha256};

use super::registry::{Contents, Manifest};

/// Where a dynamic linker looks without being told (ld.so(8), rtld(1)), on Debian's multi-architecture layout too.
const LIBRARY_PATH: [&str; 8] = [
    "/lib",
    "/usr/lib",
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];
/// Where the binary is in the image.
pub(super) const PROGRAM: &str = "/cellblock";
/// The image's name in its registry.
pub(super) const REPOSITORY: &str = "cellblock/demo";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Makes the image for a platform (`os/architecture`) from the program at `program`, with the tag `latest`.
///
/// # Errors
/// The program, or a library that it needs, cannot be found or read.
pub(super) fn make(program: &Path, platform: &str) -> anyhow::Result<Contents> {
    let (os, architecture) = platform.split_once('/').context("a platform is os/architecture")?;
    let layer = layer(program)?;
    let diff_id = digest(&layer);
    let config = serde_json::json!({
        "architecture": architecture,
        "os": os,
        "config": { "Entrypoint": [PROGRAM], "Env": ["PATH=/"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let config = Bytes::from(serde_json::to_vec(&config)?);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
    let mut entry = descriptor(MANIFEST_TYPE, &manifest);
    entry["platform"] = serde_json::json!({ "os": os, "architecture": architecture });
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry] });
    let index = Bytes::from(serde_json::to_vec(&index)?);
    let stored = |media_type, bytes: Bytes| Manifest { media_type, digest: digest(&bytes), bytes };
    let (manifest, index) = (stored(MANIFEST_TYPE, manifest), stored(INDEX_TYPE, index));
    Ok(Contents {
        blobs: BTreeMap::from([(digest(&config), config), (diff_id, layer)]),
        manifests: BTreeMap::from([
            (manifest.digest.clone(), manifest),
            (index.digest.clone(), index.clone()),
            ("latest".to_owned(), index),
        ]),
        repository: REPOSITORY.to_owned(),
    })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// The layer as an uncompressed tar: the program, its dynamic linker and libraries at the paths where they are looked for,
/// and an empty /tmp.
fn layer(program: &Path) -> anyhow::Result<Bytes> {
    let mut files = BTreeMap::from([(PathBuf::from(PROGRAM), program.to_owned())]);
    let mut waiting = vec![program.to_owned()];
    while let Some(path) = waiting.pop() {
        for needed in needed(&path)? {
            if !files.contains_key(&needed) {
                files.insert(needed.clone(), needed.clone());
                waiting.push(needed);
            }
        }
    }
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["tmp", "dev", "proc", "etc"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, directory, io::empty())?;
    }
    for (inside, outside) in files {
        let bytes = fs::read(&outside).with_context(|| format!("cannot read {}", outside.display()))?;
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_size(bytes.len().try_into()?);
        let inside = inside.strip_prefix("/").expect("every path of the image is absolute");
        tar.append_data(&mut header, inside, bytes.as_slice())?;
    }
    Ok(tar.into_inner()?.into())
}

/// The dynamic linker and the libraries that an ELF file names.
fn needed(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = ElfFile64::<Endianness>::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    let mut found = Vec::new();
    for segment in file.elf_program_headers() {
        if let Some(interpreter) = segment.interpreter(file.endian(), &*bytes)? {
            found.push(PathBuf::from(std::str::from_utf8(interpreter)?));
        }
    }
    let table = file.elf_dynamic_table()?;
    for entry in table.iter().filter(|entry| entry.tag == object::elf::DT_NEEDED) {
        found.push(library(std::str::from_utf8(table.string(entry)?)?)?);
    }
    Ok(found)
}

fn library(name: &str) -> anyhow::Result<PathBuf> {
    let mut places = LIBRARY_PATH.iter().map(|directory| Path::new(directory).join(name));
    places.find(|path| path.exists()).with_context(|| format!("cannot find the library {name}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{PROGRAM, make};

    #[test]
    fn the_image_holds_the_program_and_what_it_loads() {
        let program = std::env::current_exe().unwrap();
        let contents = make(&program, "linux/amd64").unwrap();
        assert!(contents.manifests.contains_key("latest"));
        let layer = contents.blobs.values().max_by_key(|blob| blob.len()).unwrap();
        let mut tar = tar::Archive::new(&layer[..]);
        let paths: Vec<_> = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert!(paths.contains(&Path::new(PROGRAM).strip_prefix("/").unwrap().to_owned()));
        assert!(paths.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{paths:?}");
    }

    #[test]
    fn a_program_that_is_none_is_named() {
        let error = make(Path::new("/etc/passwd"), "linux/amd64").unwrap_err();
        assert!(format!("{error:#}").contains("/etc/passwd is no ELF file"), "{error:#}");
    }
}
