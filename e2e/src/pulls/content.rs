//! Images for the benchmark of pulls: files of the sizes that images have, of text, of something like machine code, and of what is
//! compressed already. gzip takes such a layer to three quarters. Equal seeds give equal images, for the system that makes them.

use std::env::consts::OS;

use anyhow::Result;
use testimage::{Compression, Config, Image, Layer, Node, Tree};

use crate::random::Random;

/// Layers of one image.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    layers: u64,
    /// Uncompressed, of each.
    bytes: u64,
}

const MIB: u64 = 1 << 20;
/// The images that are pulled.
const SHAPES: [Shape; 3] = [
    Shape { name: "8 layers of 32 MiB", layers: 8, bytes: 32 * MIB },
    Shape { name: "1 layer of 256 MiB", layers: 1, bytes: 256 * MIB },
    Shape { name: "60 layers of 1 MiB", layers: 60, bytes: MIB },
];
/// The compressions that registries have.
const COMPRESSIONS: [(&str, Compression); 2] = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
/// The largest file.
const FILE_MAX: u64 = 4 * MIB;
/// Files in one directory.
const IN_DIRECTORY: u64 = 50;

/// An image, and the archives of its layers.
pub struct Made {
    /// The image.
    pub image: Image,
    /// Its layers, uncompressed.
    pub archives: Vec<Vec<u8>>,
}

/// Images of one kind.
#[derive(Debug)]
pub struct Case {
    /// For the table.
    pub name: String,
    /// How their layers are compressed.
    pub compression: Compression,
    shape: Shape,
}

/// The cases whose names contain `only`, with layers of a part of the bytes.
pub fn cases(scale: u64, only: Option<&str>) -> Vec<Case> {
    let shapes = SHAPES.map(|shape| Shape { bytes: shape.bytes / scale.max(1), ..shape });
    let of = |shape: Shape| {
        COMPRESSIONS.map(|(name, compression)| Case { name: format!("{}, {name}", shape.name), compression, shape })
    };
    let is_wanted = |case: &Case| only.is_none_or(|only| case.name.contains(only));
    shapes.into_iter().flat_map(of).filter(is_wanted).collect()
}

/// Makes this number of images of a case, each with different contents.
pub fn images(case: &Case, count: usize) -> Result<Vec<Made>> {
    (1..=count as u64).map(|seed| image(case, seed)).collect()
}

fn image(case: &Case, seed: u64) -> Result<Made> {
    let (Case { shape, compression, .. }, mut random) = (case, Random::new(seed));
    let archives = (0..shape.layers).map(|_| Ok(tree(shape.bytes, &mut random).tar()?)).collect::<Result<Vec<_>>>()?;
    let layers = archives.iter().map(|tar| Ok(Layer::new(tar, *compression)?)).collect::<Result<Vec<_>>>()?;
    let config = Config { cmd: vec!["sh"], os: OS, ..Config::default() };
    Ok(Made { image: Image::new(&layers, &config), archives })
}

/// An image that is small and odd: a long environment and many tiny layers, which share nothing with other images.
pub fn odd(seed: u64) -> Result<Image> {
    let mut random = Random::new(seed);
    let count = 1 + random.below(6);
    let layers: Vec<Layer> = (0..count)
        .map(|_| Ok(Layer::new(&tree(1 << 14, &mut random).tar()?, Compression::Gzip)?))
        .collect::<Result<_>>()?;
    let words: Vec<String> = (0..2000).map(|n| format!("V{n}={:x}", random.below(u64::MAX))).collect();
    let config = serde_json::json!({
        "architecture": testimage::ARCHITECTURE, "os": OS,
        "config": {"Cmd": ["sh"], "Env": words},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(Layer::diff_id).collect::<Vec<_>>()},
    });
    Ok(Image::with_document(&layers, &config))
}

fn tree(bytes: u64, random: &mut Random) -> Tree {
    let words: Vec<Vec<u8>> = (0..4096).map(|_| word(random)).collect();
    let (mut tree, mut left, mut count) = (Tree::default(), bytes, 0);
    while left > 0 {
        // As many of a few kilobytes as of a few hundred.
        let size = (512u64 << random.below(13)) + random.below(4096);
        let size = size.min(FILE_MAX).min(left);
        let contents = match random.below(20) {
            0..9 => text(size, &words, random),
            9..16 => code(size, random),
            _ => (0..size).map(|_| byte(random)).collect(),
        };
        let path = format!("usr/{}/{:x}", count / IN_DIRECTORY, random.below(u64::MAX));
        tree = tree.with(&path, Node::File(if random.one_in(4) { 0o755 } else { 0o644 }, contents.into()));
        (left, count) = (left - size, count + 1);
    }
    tree
}

fn byte(random: &mut Random) -> u8 {
    u8::try_from(random.below(256)).unwrap_or_default()
}

fn word(random: &mut Random) -> Vec<u8> {
    (0..2 + random.below(9)).map(|_| b'a' + byte(random) % 26).chain([b' ']).collect()
}

/// Words, the first ones of the list more often.
fn text(size: u64, words: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    while (text.len() as u64) < size {
        let most = 1 + random.below(words.len() as u64);
        let at = random.below(most);
        text.extend_from_slice(&words[usize::try_from(at).unwrap_or_default()]);
    }
    text.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    text
}

/// Instructions of eight bytes: half of each is one of a few hundred, a quarter is a small number, a quarter is anything.
fn code(size: u64, random: &mut Random) -> Vec<u8> {
    let known: Vec<[u8; 4]> = (0..300).map(|_| [(); 4].map(|()| byte(random))).collect();
    let mut code = Vec::new();
    while (code.len() as u64) < size {
        code.extend_from_slice(&known[usize::try_from(random.below(300)).unwrap_or_default()]);
        code.extend_from_slice(&[byte(random) % 8, 0, byte(random), byte(random)]);
    }
    code.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    code
}

#[cfg(test)]
mod tests {
    use super::{cases, image};

    #[test]
    fn cases_are_selected_by_name() {
        let named = |only| cases(4, only).into_iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(named(None).len(), 6);
        assert_eq!(named(Some("8 layers")), ["8 layers of 32 MiB, gzip", "8 layers of 32 MiB, zstd"]);
        assert!(named(Some("lz4")).is_empty());
    }

    #[test]
    fn images_are_reproducible_and_compress_as_real_ones_do() {
        let case = &cases(64, Some("1 layer of 256 MiB, gzip"))[0];
        let made = image(case, 7).unwrap();
        assert_eq!(made.image.manifest.digest, image(case, 7).unwrap().image.manifest.digest);
        assert_ne!(made.image.manifest.digest, image(case, 8).unwrap().image.manifest.digest);
        let (compressed, whole) = (made.image.blobs[1].bytes.len(), made.archives[0].len());
        assert!(compressed * 4 > whole && compressed * 5 < whole * 4, "{compressed} of {whole}");
    }
}
