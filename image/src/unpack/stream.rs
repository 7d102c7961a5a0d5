//! The bytes of a layer, decompressed by their first bytes and not by their media type, hashed, counted, and limited.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use super::{Failure, Refusal};
use crate::{Algorithm, Digest};

/// Uncompressed bytes of one layer.
pub(super) const BYTES_MAX: u64 = 64 << 30;
/// Uncompressed bytes above which [`BOMB_RATIO_MAX`] applies.
const BOMB_BYTES_MIN: u64 = 1 << 30;
/// The largest compression ratio: gzip reaches 1032 on zeros, real images 20.
const BOMB_RATIO_MAX: u64 = 200;
/// The largest window of zstd, as a power of two: the limit of zstd(1), 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes of a block, and of the compressed bytes that are read at a time.
const BLOCK: usize = 128 << 10;
/// Blocks between the threads of one layer: they bound its memory, and bridge what a large file takes to be written.
const BLOCKS: usize = 8;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the magic number of a skippable frame; the first varies.
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Decompresses, by the first bytes.
pub(super) fn open<'a>(mut input: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>, Failure> {
    let mut head = Vec::new();
    input.by_ref().take(4).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
    let kind: [bool; 2] = [
        head.starts_with(&GZIP),
        head == ZSTD || (head.len() == 4 && head[1..] == ZSTD_SKIPPED && head[0] & 0xf0 == 0x50),
    ];
    let input = BufReader::with_capacity(BLOCK, Cursor::new(head).chain(input));
    Ok(match kind {
        [true, _] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [_, true] => Box::new(zstd_decoder(input).map_err(|error| unreadable(&error))?),
        _ => Box::new(input),
    })
}

/// A layer's uncompressed bytes: one thread decompresses them and one hashes them, while the caller reads.
pub(super) struct Stream<'scope> {
    blocks: Receiver<io::Result<Arc<Block>>>,
    current: Option<Arc<Block>>,
    at: usize,
    hash: Hashing<'scope>,
}

/// Digest and length, there or later.
enum Hashing<'scope> {
    Done(Digest, u64),
    Running(ScopedJoinHandle<'scope, (Digest, u64)>),
}

/// Uncompressed bytes. The last thread that drops it gives the buffer back.
struct Block {
    bytes: Vec<u8>,
    home: SyncSender<Vec<u8>>,
}

impl Drop for Block {
    fn drop(&mut self) {
        // The decompressing thread may have ended.
        let _ = self.home.try_send(std::mem::take(&mut self.bytes));
    }
}

impl<'scope> Stream<'scope> {
    /// Starts the threads, unless all of it is one block. They end when the stream is dropped, or the source has ended. Reads at most
    /// `limit` bytes.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        source: Box<dyn Read + Send + 'env>,
        limit: u64,
        algorithm: Algorithm,
    ) -> Self {
        let (reading, blocks) = sync_channel(BLOCKS);
        let mut source = Decompressor::new(source, limit);
        let (current, hash) = match source.next() {
            Some(Ok(block)) if block.bytes.len() == BLOCK => {
                let (hashing, hashed) = sync_channel(BLOCKS);
                // The channel has room for it.
                let _ = hashing.send(Arc::clone(&block));
                scope.spawn(move || source.run(&reading, &hashing));
                (Some(block), Hashing::Running(scope.spawn(move || hash_all(hashed, algorithm))))
            }
            Some(Ok(block)) => {
                let done = Hashing::Done(algorithm.digest(&block.bytes), block.bytes.len() as u64);
                (Some(block), done)
            }
            Some(Err(error)) => {
                let _ = reading.send(Err(error));
                (None, Hashing::Done(algorithm.digest(&[]), 0))
            }
            None => (None, Hashing::Done(algorithm.digest(&[]), 0)),
        };
        Self { blocks, current, at: 0, hash }
    }

    /// Reads the bytes after the archive's end, which the digest covers, and returns digest and length.
    pub(super) fn finish(mut self) -> Result<(Digest, u64), Failure> {
        loop {
            let left = self.fill_buf().map_err(|error| unreadable(&error))?.len();
            if left == 0 {
                break;
            }
            self.consume(left);
        }
        Ok(match self.hash {
            Hashing::Done(digest, length) => (digest, length),
            Hashing::Running(thread) => thread.join().expect("hashing does not panic"),
        })
    }
}

fn hash_all(blocks: Receiver<Arc<Block>>, algorithm: Algorithm) -> (Digest, u64) {
    let (mut hash, mut length) = (algorithm.start(), 0);
    for block in blocks {
        hash.update(&block.bytes);
        length += block.bytes.len() as u64;
    }
    (hash.finish(), length)
}

/// Fills blocks from a source, and uses their buffers again.
struct Decompressor<'env> {
    source: Box<dyn Read + Send + 'env>,
    limit: u64,
    read: u64,
    made: usize,
    home: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

impl<'env> Decompressor<'env> {
    fn new(source: Box<dyn Read + Send + 'env>, limit: u64) -> Self {
        let (home, empty) = sync_channel(BLOCKS);
        Self { source, limit, read: 0, made: 0, home, empty }
    }

    /// Sends the rest of the source to the reader and to the hash, until the reader is gone, or the source ends or fails.
    fn run(&mut self, reader: &SyncSender<io::Result<Arc<Block>>>, hash: &SyncSender<Arc<Block>>) {
        while let Some(block) = self.next() {
            let hashed = block.as_ref().is_ok_and(|block| hash.send(Arc::clone(block)).is_ok());
            if reader.send(block).is_err() || !hashed {
                return;
            }
        }
    }

    /// The next block, full unless it is the last; None at the end.
    fn next(&mut self) -> Option<io::Result<Arc<Block>>> {
        let mut bytes = match self.empty.try_recv() {
            Ok(bytes) => bytes,
            Err(_) if self.made < BLOCKS => {
                self.made += 1;
                Vec::new()
            }
            Err(_) => self.empty.recv().expect("this has a sender"),
        };
        bytes.resize(BLOCK, 0);
        let filled = match fill(&mut self.source, &mut bytes) {
            Ok(0) => return None,
            Ok(filled) => filled,
            Err(error) => return Some(Err(error)),
        };
        bytes.truncate(filled);
        self.read += filled as u64;
        if self.read > self.limit {
            let reason = format!("it grows to more than {} bytes when it is decompressed", self.limit);
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
        Some(Ok(Arc::new(Block { bytes, home: self.home.clone() })))
    }
}

/// Reads until the buffer is full or the source ends. What came before an error is read first.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|block| self.at == block.bytes.len()) {
            (self.current, self.at) = (None, 0);
            // The end of the messages is the end of the layer.
            self.current = self.blocks.recv().ok().transpose()?;
        }
        Ok(self.current.as_ref().map_or(&[], |block| &block.bytes[self.at..]))
    }

    fn consume(&mut self, read: usize) {
        self.at += read;
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// The limit of uncompressed bytes for `compressed` bytes (0: unknown).
pub(super) fn limit(compressed: u64) -> u64 {
    let ratio = compressed.saturating_mul(BOMB_RATIO_MAX).max(BOMB_BYTES_MIN);
    if compressed == 0 { BYTES_MAX } else { ratio.min(BYTES_MAX) }
}

fn zstd_decoder<'a>(input: impl BufRead + Send + 'a) -> io::Result<impl Read + Send + 'a> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
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

    use super::{BOMB_BYTES_MIN, BYTES_MAX, Stream, limit, open, unreadable};
    use crate::unpack::{Failure, Refusal};
    use crate::{Algorithm, Digest};

    /// Reads these bytes, with a limit.
    fn with<T>(bytes: &[u8], limit: u64, algorithm: Algorithm, read: impl FnOnce(Stream<'_>) -> T) -> T {
        std::thread::scope(|scope| read(Stream::start(scope, open(bytes).unwrap(), limit, algorithm)))
    }

    fn finish(bytes: &[u8], algorithm: Algorithm) -> Result<(Digest, u64), Failure> {
        with(bytes, BYTES_MAX, algorithm, |stream| stream.finish())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_compression_gives_the_same_bytes_and_digest() {
        let plain = b"hello ".repeat(10_000);
        let members = [gzip(&plain[..30_000]), gzip(&plain[30_000..])].concat();
        // As zstd:chunked has them: a frame's table of contents in front and behind.
        let frames = [&plain[..20_000], &plain[20_000..]].map(|part| zstd::encode_all(part, 3).unwrap());
        let skipped = |kind: u8, length: u32| {
            [&[0x50 | kind, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), &vec![7; length as usize]].concat()
        };
        let chunked = [skipped(0xe, 64), frames[0].clone(), skipped(0, 300_000), frames[1].clone(), skipped(0xe, 64)];
        for bytes in [plain.clone(), gzip(&plain), members, zstd::encode_all(&plain[..], 3).unwrap(), chunked.concat()]
        {
            with(&bytes, BYTES_MAX, Algorithm::Sha256, |mut stream| {
                let mut first = [0; 6];
                stream.read_exact(&mut first).unwrap();
                assert_eq!(stream.finish().unwrap(), (Digest::of(&plain), plain.len() as u64));
            });
        }
    }

    #[test]
    fn a_compressed_stream_that_is_cut_off_is_refused() {
        let whole = gzip(&b"hello ".repeat(10_000));
        assert_eq!(finish(&whole[..whole.len() - 10], Algorithm::Sha512).unwrap_err().refusal, Refusal::Invalid);
    }

    #[test]
    fn a_reader_that_gives_up_ends_the_threads() {
        let bytes = gzip(&vec![0; 64 << 20]);
        with(&bytes, BYTES_MAX, Algorithm::Sha256, |mut stream| stream.read(&mut [0; 10]).unwrap());
    }

    #[test]
    fn a_bomb_is_refused_before_it_has_grown() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        io::copy(&mut io::repeat(0).take(64 << 20), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 1 << 16);
        let (grown, error) = with(&bomb, 1 << 20, Algorithm::Sha256, |mut stream| {
            let mut grown = 0;
            loop {
                match stream.read(&mut [0; 4096]) {
                    Ok(0) => panic!("it was not refused"),
                    Ok(read) => grown += read,
                    Err(error) => break (grown, error),
                }
            }
        });
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
