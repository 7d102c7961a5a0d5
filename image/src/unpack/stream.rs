//! The bytes of a layer, decompressed by their first bytes and not by their media type, hashed, counted, and limited.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use super::{Failure, Refusal};
use crate::{Algorithm, Digest, Hash};

/// Uncompressed bytes of one layer.
pub(super) const BYTES_MAX: u64 = 64 << 30;
/// Uncompressed bytes above which [`BOMB_RATIO_MAX`] applies.
const BOMB_BYTES_MIN: u64 = 1 << 30;
/// The largest compression ratio: gzip reaches 1032 on zeros, real images 20.
const BOMB_RATIO_MAX: u64 = 200;
/// The largest window of zstd, as a power of two: the limit of zstd(1), 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes read at a time.
const BUFFER: usize = 128 << 10;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the magic number of a skippable frame; the first varies.
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

/// A layer's uncompressed bytes.
pub(super) struct Stream<'a> {
    source: Box<dyn Read + 'a>,
    hash: Hash,
    read: u64,
    limit: u64,
}

impl<'a> Stream<'a> {
    /// Detects the compression by the first bytes. Reads at most `limit` uncompressed bytes, and hashes them.
    pub(super) fn open(mut input: impl Read + 'a, limit: u64, algorithm: Algorithm) -> Result<Self, Failure> {
        let mut head = Vec::new();
        input.by_ref().take(4).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
        let kind: [bool; 2] = [
            head.starts_with(&GZIP),
            head == ZSTD || (head.len() == 4 && head[1..] == ZSTD_SKIPPED && head[0] & 0xf0 == 0x50),
        ];
        let input = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(input));
        let source: Box<dyn Read + 'a> = match kind {
            [true, _] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            [_, true] => Box::new(zstd_decoder(input).map_err(|error| unreadable(&error))?),
            _ => Box::new(input),
        };
        Ok(Self { source, hash: algorithm.start(), read: 0, limit })
    }

    /// Reads the bytes after the archive's end, which the digest covers, and returns digest and length.
    pub(super) fn finish(mut self) -> Result<(Digest, u64), Failure> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| unreadable(&error))?;
        Ok((self.hash.finish(), self.read))
    }
}

/// The limit of uncompressed bytes for `compressed` bytes (0: unknown).
pub(super) fn limit(compressed: u64) -> u64 {
    let ratio = compressed.saturating_mul(BOMB_RATIO_MAX).max(BOMB_BYTES_MIN);
    if compressed == 0 { BYTES_MAX } else { ratio.min(BYTES_MAX) }
}

fn zstd_decoder<'a>(input: impl BufRead + 'a) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        if self.read > self.limit {
            let reason = format!("it grows to more than {} bytes when it is decompressed", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(read)
    }
}

/// A failed read: an errno means the disk, anything else an invalid layer.
pub(crate) fn unreadable(error: &io::Error) -> Failure {
    let refusal = if error.raw_os_error().is_some() { Refusal::Failed } else { Refusal::Invalid };
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends in the middle".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    Failure { refusal, reason }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::{BOMB_BYTES_MIN, BYTES_MAX, Stream, limit, unreadable};
    use crate::unpack::Refusal;
    use crate::{Algorithm, Digest};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_compression_gives_the_same_bytes_and_digest() {
        let plain = b"hello ".repeat(10_000);
        let members = [gzip(&plain[..30_000]), gzip(&plain[30_000..])].concat();
        for bytes in [plain.clone(), gzip(&plain), members, zstd::encode_all(&plain[..], 3).unwrap()] {
            let mut stream = Stream::open(&bytes[..], BYTES_MAX, Algorithm::Sha256).unwrap();
            let mut first = [0; 6];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(stream.finish().unwrap(), (Digest::of(&plain), plain.len() as u64));
        }
    }

    #[test]
    fn a_compressed_stream_that_is_cut_off_is_refused() {
        let whole = gzip(&b"hello ".repeat(10_000));
        let stream = Stream::open(&whole[..whole.len() - 10], BYTES_MAX, Algorithm::Sha512).unwrap();
        assert_eq!(stream.finish().unwrap_err().refusal, Refusal::Invalid);
    }

    #[test]
    fn a_bomb_is_refused_before_it_has_grown() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        io::copy(&mut io::repeat(0).take(64 << 20), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 1 << 16);
        let mut stream = Stream::open(&bomb[..], 1 << 20, Algorithm::Sha256).unwrap();
        let mut grown = 0;
        let error = loop {
            match stream.read(&mut [0; 4096]) {
                Ok(0) => panic!("it was not refused"),
                Ok(read) => grown += read,
                Err(error) => break error,
            }
        };
        assert!(grown <= 1 << 20 && error.kind() == io::ErrorKind::InvalidData, "{grown} bytes, {error}");
        let trouble = unreadable(&error);
        assert!(trouble.reason.contains("grows to more than"), "{trouble}");
    }

    #[test]
    fn what_may_come_of_a_layer_depends_on_its_size() {
        let table = [
            (0, BYTES_MAX),
            (1, BOMB_BYTES_MIN),
            (100 << 20, 20_000 << 20),
            (10 << 30, BYTES_MAX),
            (u64::MAX, BYTES_MAX),
        ];
        for (compressed, bytes) in table {
            assert_eq!(limit(compressed), bytes);
        }
    }
}
