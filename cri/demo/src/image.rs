//! Builds the image of `cellblock demo`: the running binary and its libraries, as one layer. The demo needs no network and no other
//! image.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use object::Endianness;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use testimage::{ARCHITECTURE, Compression, Config, Contents, Image, Layer, Tree};

/// The default paths of dynamic linkers (ld.so(8), rtld(1)), with those of Debian's multi-architecture layout.
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
/// The path of the binary in the image.
pub(super) const PROGRAM: &str = "/cellblock";
/// The image's name in its registry.
pub(super) const REPOSITORY: &str = "cellblock/demo";

/// Makes the image from the program at `program`, for this platform, with the tag `latest`.
///
/// # Errors
/// The program, or a library that it needs, cannot be found or read.
pub(super) fn make(program: &Path) -> anyhow::Result<Contents> {
    let config = Config {
        entrypoint: vec![PROGRAM],
        env: vec!["PATH=/"],
        working_dir: "/",
        os: std::env::consts::OS,
        ..Config::default()
    };
    // Uncompressed: it is sent over loopback once.
    let layer = Layer::new(&tree(program)?.tar()?, Compression::None)?;
    let image = Image::new(&[layer], &config);
    let platform = format!("{}/{ARCHITECTURE}", config.os);
    let mut contents = Contents::new(REPOSITORY);
    contents.add(&image);
    contents.tag("latest", &testimage::index(&[(&platform, image.manifest.descriptor())]));
    Ok(contents)
}

/// The files of the image: the program, its dynamic linker and libraries at their usual paths, and empty directories to mount on.
fn tree(program: &Path) -> anyhow::Result<Tree> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut tree = ["dev", "proc", "etc"].iter().fold(Tree::default(), |tree, name| tree.directory(name, 0o755));
    tree = tree.directory("tmp", 0o1777).program(PROGRAM.trim_start_matches('/'), &read(program)?);
    let (mut waiting, mut seen) = (needed(program)?, BTreeSet::new());
    while let Some(path) = waiting.pop() {
        if seen.insert(path.clone()) {
            let inside = path.strip_prefix("/").ok().and_then(Path::to_str);
            let inside = inside.with_context(|| format!("{} is no absolute path in UTF-8", path.display()))?;
            tree = tree.program(inside, &read(&path)?);
            waiting.extend(needed(&path)?);
        }
    }
    Ok(tree)
}

/// Reads the dynamic linker and the libraries of an ELF file.
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

    use super::{PROGRAM, make, tree};

    #[test]
    fn the_image_holds_the_program_and_what_it_loads() {
        let tar = tree(&std::env::current_exe().unwrap()).unwrap().tar().unwrap();
        let mut tar = tar::Archive::new(&tar[..]);
        let paths: Vec<_> = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert!(paths.contains(&Path::new(PROGRAM).strip_prefix("/").unwrap().to_owned()));
        assert!(paths.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{paths:?}");
    }

    #[test]
    fn a_program_that_is_none_is_named() {
        let error = make(Path::new("/etc/passwd")).unwrap_err();
        assert!(format!("{error:#}").contains("/etc/passwd is no ELF file"), "{error:#}");
    }
}
