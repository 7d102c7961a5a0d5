//! Reads the entries of a tar archive: ustar, pax and GNU, with long names and sparse files. Everything read into memory has a
//! limit, since a header is not trusted.

use std::io::{self, BufRead, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{self, Pax, number};
use super::stream::{BYTES_MAX, unreadable};
use super::{Failure, Refusal};

/// Bytes of a tar block.
const BLOCK: usize = 512;
/// Bytes of a path or of a link's target: PATH_MAX of Linux.
const PATH_BYTES_MAX: u64 = 4096;
/// Bytes of a pax header: a few extended attributes of 64 KiB.
const PAX_BYTES_MAX: u64 = 1 << 20;
/// Extents of a sparse file.
const EXTENTS_MAX: usize = 64 << 10;

/// Offsets and lengths of the numbers in a header (tar(5)).
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);

/// The type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Fifo,
    /// Major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// One entry; [`Entries`] then reads a file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, i64),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// A file's size, with holes.
    pub(crate) size: u64,
    /// Offset and length of the data extents, in order.
    pub(crate) extents: Vec<(u64, u64)>,
}

/// Reads entry after entry.
pub(crate) struct Entries<R> {
    source: R,
    /// Unread bytes of the current entry, and the padding after them.
    left: u64,
    padding: u64,
}

/// The long names and the pax header in front of an entry.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Pax,
}

impl<R: BufRead> Entries<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// Reads the next entry; None at the end of the archive. Skips the unread rest of the current one.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        let mut before = Before::default();
        loop {
            self.skip()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let size =
                field(&block, SIZE).and_then(|size| u64::try_from(size).ok()).ok_or_else(|| malformed("size"))?;
            match header.entry_type() {
                EntryType::GNULongName => before.path = Some(self.name(size)?),
                EntryType::GNULongLink => before.link = Some(self.name(size)?),
                EntryType::XHeader => before.pax = pax::parse(&self.whole(size, PAX_BYTES_MAX)?, EXTENTS_MAX)?,
                // Global records apply to all later entries; none affects unpacking (git writes a comment).
                EntryType::XGlobalHeader => drop(self.whole(size, PAX_BYTES_MAX)?),
                _ => return self.entry(header, size, before).map(Some),
            }
        }
    }

    /// Skips the rest of an entry.
    fn skip(&mut self) -> Result<(), Failure> {
        let left = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped =
            io::copy(&mut self.source.by_ref().take(left), &mut io::sink()).map_err(|error| unreadable(&error))?;
        if skipped == left { Ok(()) } else { Err(cut_off()) }
    }

    /// Reads a header; None at the end of the archive, which some archives do not mark by zeros.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Failure> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut_off()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum counts its own field as spaces.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        match Header::from_byte_slice(&block).cksum() {
            Ok(said) if said == sum => Ok(Some(block)),
            _ => Err(Failure::invalid("it is not a tar archive, or damaged: the checksum of a header is wrong")),
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], Failure> {
        let mut block = [0; BLOCK];
        self.source.read_exact(&mut block).map_err(|error| unreadable(&error))?;
        Ok(block)
    }

    /// Reads the contents of a long name or a pax header, and the padding.
    fn whole(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, Failure> {
        if size > limit {
            return Err(Failure::invalid(format!("a header of {size} bytes is larger than {limit}")));
        }
        self.start(size);
        let mut bytes = Vec::new();
        let read = self.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        if read as u64 == size { Ok(bytes) } else { Err(cut_off()) }
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, Failure> {
        let mut name = self.whole(size, PATH_BYTES_MAX + 1)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn start(&mut self, size: u64) {
        let block = BLOCK as u64;
        (self.left, self.padding) = (size, (block - size % block) % block);
    }

    /// Combines the header of an entry with the extensions in front of it.
    fn entry(&mut self, header: &Header, size: u64, before: Before) -> Result<Entry, Failure> {
        let Before { path, link, pax } = before;
        let path = pax.sparse.name.clone().or(pax.path).or(path).unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            pax.link.or(link).or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        let long = |bytes: &[u8]| bytes.len() as u64 > PATH_BYTES_MAX || bytes.contains(&0);
        if long(&path) || long(&link) {
            return Err(Failure::invalid(format!(
                "entry {}: its name or its target is longer than {PATH_BYTES_MAX} bytes or holds a NUL",
                shown(&path)
            )));
        }
        let refuse = |field: &str| Failure::invalid(format!("entry {}: its {field} is malformed", shown(&path)));
        let kind = kind(header, &path, link)?;
        let own = |place: (usize, usize), name: &str| field(header.as_bytes(), place).ok_or_else(|| refuse(name));
        let id = |pax: Option<u64>, place: (usize, usize), name: &str| {
            let id = pax.map_or_else(|| own(place, name), |id| i64::try_from(id).map_err(|_| refuse(name)))?;
            u32::try_from(id).map_err(|_| refuse(name))
        };
        let (uid, gid) = (id(pax.uid, UID, "owner")?, id(pax.gid, GID, "group")?);
        let mode = u32::try_from(own(MODE, "mode")? & 0o7777).map_err(|_| refuse("mode"))?;
        let mtime = pax.mtime.map_or_else(|| own(MTIME, "time").map(|seconds| (seconds, 0)), Ok)?;
        let stored = if kind == Kind::File { pax.size.unwrap_or(size) } else { 0 };
        let old = header.as_gnu().filter(|_| header.entry_type() == EntryType::GNUSparse);
        let map = match old {
            Some(gnu) => {
                Some((gnu.real_size().map_err(|_| refuse("size"))?, self.old_map(&gnu.sparse, gnu.is_extended())?))
            }
            None => None,
        };
        self.start(stored);
        let (size, extents) = match (map, pax.sparse) {
            (Some(map), _) => map,
            (None, sparse) if sparse.map_in_data => (sparse.size.ok_or_else(|| refuse("size"))?, self.map_in_data()?),
            (None, sparse) if !sparse.map.is_empty() => {
                (sparse.size.ok_or_else(|| refuse("size"))?, pairs(&sparse.map))
            }
            _ => (stored, vec![(0, stored)]),
        };
        check_extents(&extents, size, self.left).ok_or_else(|| refuse("map of holes or its size"))?;
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs: pax.xattrs, size, extents })
    }

    /// Reads the map of GNU's old sparse format: four extents in the header, 21 in each following block.
    fn old_map(&mut self, first: &[GnuSparseHeader], extended: bool) -> Result<Vec<(u64, u64)>, Failure> {
        let mut extents = Vec::new();
        old_extents(first, &mut extents)?;
        let mut more = extended;
        while more {
            let mut header = GnuExtSparseHeader::new();
            header.as_mut_bytes().copy_from_slice(&self.block()?);
            old_extents(header.sparse(), &mut extents)?;
            more = header.is_extended();
        }
        Ok(extents)
    }

    /// Reads the map of pax format 1.0: decimal lines at the start of the data, padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<(u64, u64)>, Failure> {
        let (mut numbers, mut text) = (Vec::new(), Vec::new());
        let mut wanted = 1;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block).map_err(|error| unreadable(&error))?;
            text.extend_from_slice(&block);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                numbers.push(number(&line[..end]).ok_or_else(|| malformed("map of holes"))?);
                wanted = usize::try_from(numbers[0]).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(1);
                if numbers.len() == wanted {
                    break;
                }
            }
            if wanted > 2 * EXTENTS_MAX + 1 || text.len() > BLOCK {
                return Err(malformed("map of holes"));
            }
        }
        Ok(pairs(&numbers[1..]))
    }
}

impl<R: BufRead> BufRead for Entries<R> {
    /// Bytes of the current entry; the end of the archive is an error.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = self.source.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        Ok(&bytes[..length])
    }

    fn consume(&mut self, read: usize) {
        self.source.consume(read);
        self.left -= read as u64;
    }
}

impl<R: BufRead> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// Parses a number of a header: octal, or binary with the highest bit set; an empty field is 0.
fn field(block: &[u8], (offset, length): (usize, usize)) -> Option<i64> {
    let bytes = &block[offset..offset + length];
    if bytes[0] & 0x80 == 0 {
        let text: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, 0 | b' ')).collect();
        let text = String::from_utf8(text).ok()?;
        return if text.is_empty() {
            Some(0)
        } else {
            i64::from_str_radix(&text, 8).ok().filter(|number| *number >= 0)
        };
    }
    // The second highest bit is the sign.
    let first = i64::from(bytes[0] & 0x7f) - if bytes[0] & 0x40 == 0 { 0 } else { 0x80 };
    bytes[1..].iter().try_fold(first, |number, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)))
}

fn kind(header: &Header, path: &[u8], link: Vec<u8>) -> Result<Kind, Failure> {
    let refuse = |reason: &str| Failure::invalid(format!("entry {}: {reason}", shown(path)));
    let device = || {
        let number = |number: io::Result<Option<u32>>| {
            number.ok().flatten().ok_or_else(|| refuse("its device number is malformed"))
        };
        Ok::<_, Failure>((number(header.device_major())?, number(header.device_minor())?))
    };
    match header.entry_type() {
        // The first tar marked directories by a slash only.
        EntryType::Regular if path.ends_with(b"/") => Ok(Kind::Directory),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Ok(Kind::File),
        EntryType::Directory => Ok(Kind::Directory),
        EntryType::Symlink | EntryType::Link if link.is_empty() => Err(refuse("a link without a target")),
        EntryType::Symlink => Ok(Kind::Symlink(link)),
        EntryType::Link => Ok(Kind::Hardlink(link)),
        EntryType::Fifo => Ok(Kind::Fifo),
        EntryType::Char => device().map(|(major, minor)| Kind::CharDevice(major, minor)),
        EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice(major, minor)),
        other => Err(refuse(&format!("its type {:?} is not known", char::from(other.as_byte())))),
    }
}

fn old_extents(headers: &[GnuSparseHeader], extents: &mut Vec<(u64, u64)>) -> Result<(), Failure> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let number = |number: io::Result<u64>| number.map_err(|_| malformed("map of holes"));
        extents.push((number(header.offset())?, number(header.length())?));
    }
    if extents.len() > EXTENTS_MAX { Err(malformed("map of holes")) } else { Ok(()) }
}

fn pairs(numbers: &[u64]) -> Vec<(u64, u64)> {
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Whether extents are in order, within the file, and as long together as the stored data.
fn check_extents(extents: &[(u64, u64)], size: u64, stored: u64) -> Option<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in extents {
        if *offset < end {
            return None;
        }
        end = offset.checked_add(*length)?;
        sum = sum.checked_add(*length)?;
    }
    (end <= size && size <= BYTES_MAX && sum == stored).then_some(())
}

/// Quotes an entry's name for an error, on one line of limited length.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let start: String = text.chars().take(200).collect();
    format!("{start:?}")
}

fn malformed(field: &str) -> Failure {
    Failure::invalid(format!("the {field} of an entry is malformed"))
}

fn cut_off() -> Failure {
    Failure { refusal: Refusal::Invalid, reason: "it ends in the middle of an entry".to_owned() }
}
