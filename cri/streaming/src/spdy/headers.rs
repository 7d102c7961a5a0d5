//! Name/value header blocks: one zlib stream per direction for the whole connection, flushed at the end of each block. Reading
//! is bounded; what is written is always the empty block of a SYN_REPLY.

use flate2::{Decompress, FlushDecompress, Status as Inflated};

use super::dictionary::DICTIONARY;
use super::frame::{ProtocolError, RstStatus};

/// Bytes of a block once it is decompressed: four short headers are what real peers send.
const BLOCK_LIMIT: usize = 16 * 1024;
/// Headers in a block.
const COUNT_LIMIT: usize = 64;

/// The headers of a stream, names in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, the name given in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The decompressor of a connection's header blocks.
#[derive(Debug)]
pub struct Inflater {
    zlib: Decompress,
    block: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { zlib: Decompress::new(true), block: Vec::new() }
    }
}

impl Inflater {
    /// Reads the next block, which is on `stream`.
    ///
    /// # Errors
    /// A session error for a block that does not decompress, or to too much, since later blocks depend on it; a stream error for
    /// one that decompresses to an invalid list.
    pub fn read(&mut self, stream: u32, compressed: &[u8]) -> Result<Headers, ProtocolError> {
        self.inflate(compressed)?;
        parse(&self.block).ok_or(ProtocolError::Stream { stream, status: RstStatus::ProtocolError })
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> Result<(), ProtocolError> {
        self.block.clear();
        self.block.resize(BLOCK_LIMIT, 0);
        let mut length = 0;
        while !compressed.is_empty() {
            let (input, output) = (self.zlib.total_in(), self.zlib.total_out());
            let result = self.zlib.decompress(compressed, &mut self.block[length..], FlushDecompress::Sync);
            let (taken, made) = (self.zlib.total_in() - input, self.zlib.total_out() - output);
            compressed = &compressed[usize::try_from(taken).expect("it is within the block")..];
            length += usize::try_from(made).expect("it is within the block");
            match result {
                Ok(Inflated::Ok | Inflated::BufError) if taken + made > 0 && length < BLOCK_LIMIT => {}
                Ok(Inflated::Ok | Inflated::BufError) if length == BLOCK_LIMIT => {
                    return Err(ProtocolError::Connection("a header block that is too long"));
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.zlib.set_dictionary(&DICTIONARY);
                    known.map_err(|_| ProtocolError::Connection("a header block with another dictionary"))?;
                }
                _ => return Err(ProtocolError::Connection("a header block that cannot be decompressed")),
            }
        }
        self.block.truncate(length);
        Ok(())
    }
}

/// The headers in a decompressed block; None: it is not one, or has too many, or one twice, or a name that is empty or not
/// in lower case.
fn parse(mut block: &[u8]) -> Option<Headers> {
    let count = usize::try_from(number(&mut block)?).ok().filter(|count| *count <= COUNT_LIMIT)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut block)?;
        let value = text(&mut block)?;
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) || headers.get(&name).is_some() {
            return None;
        }
        headers.0.push((name, value));
    }
    block.is_empty().then_some(headers)
}

fn number(block: &mut &[u8]) -> Option<u32> {
    let (bytes, rest) = block.split_first_chunk::<4>()?;
    *block = rest;
    Some(u32::from_be_bytes(*bytes))
}

fn text(block: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(block)?).ok()?;
    let (bytes, rest) = block.split_at_checked(length)?;
    *block = rest;
    String::from_utf8(bytes.to_vec()).ok()
}

/// The compressor of the blocks that we send. All of them are empty, so they are written as stored blocks of a zlib stream
/// (RFC 1950, RFC 1951 section 3.2.4), which need no compressor and none of its 256 KiB a connection.
#[derive(Debug, Default)]
pub(crate) struct Deflater {
    begun: bool,
}

impl Deflater {
    /// A block with no headers.
    pub(crate) fn empty(&mut self) -> Vec<u8> {
        // Method 8, a window of 32 KiB; no dictionary; the check makes the two bytes a multiple of 31.
        let mut bytes = if std::mem::replace(&mut self.begun, true) { Vec::new() } else { vec![0x78, 0x01] };
        // Not the last block, stored; four bytes and their complement; a count of zero headers.
        bytes.extend_from_slice(&[0, 4, 0, 0xfb, 0xff]);
        bytes.extend_from_slice(&0u32.to_be_bytes());
        // And an empty one, as zlib's Z_SYNC_FLUSH leaves: Go's reader gives out what came before only then.
        bytes.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::{BLOCK_LIMIT, DICTIONARY, Deflater, Headers, Inflater, ProtocolError, RstStatus};

    /// What a client does: a compressor with the dictionary.
    pub(in super::super) struct ClientDeflater(Compress);

    impl Default for ClientDeflater {
        fn default() -> Self {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&DICTIONARY).unwrap();
            Self(zlib)
        }
    }

    impl ClientDeflater {
        pub(in super::super) fn raw(&mut self, block: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(block.len() + 1024);
            let before = self.0.total_in();
            self.0.compress_vec(block, &mut out, FlushCompress::Sync).unwrap();
            assert_eq!(self.0.total_in() - before, block.len() as u64);
            out
        }

        pub(in super::super) fn headers(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            self.raw(&block(headers))
        }
    }

    fn block(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    #[test]
    fn blocks_of_one_connection_are_read_in_order() {
        let (mut client, mut server) = (ClientDeflater::default(), Inflater::default());
        for kind in ["error", "stdin", "stdout", "stderr"] {
            let headers = server.read(1, &client.headers(&[("streamtype", kind), ("port", "80")])).unwrap();
            assert_eq!((headers.get("streamtype"), headers.get("port")), (Some(kind), Some("80")));
        }
    }

    #[test]
    fn our_blocks_decompress_to_no_headers() {
        let (mut ours, mut reader) = (Deflater::default(), Inflater::default());
        for _ in 0..3 {
            assert_eq!(reader.read(1, &ours.empty()).unwrap(), Headers::default());
        }
    }

    #[test]
    fn nonsense_loses_the_stream_and_not_the_next_block() {
        let (mut client, mut server) = (ClientDeflater::default(), Inflater::default());
        let lost = Err(ProtocolError::Stream { stream: 5, status: RstStatus::ProtocolError });
        for wrong in [
            &[0, 0][..],
            &[0, 0, 0, 1],
            &[0xff; 4],
            &[0, 0, 0, 0, 9],
            &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'],
            &[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0],
            &block(&[("", "empty")]),
            &block(&[("Upper", "case")]),
            &block(&[("twice", "1"), ("twice", "2")]),
        ] {
            assert_eq!(server.read(5, &client.raw(wrong)), lost, "{wrong:?}");
        }
        assert!(server.read(7, &client.headers(&[("a", "b")])).is_ok());
    }

    #[test]
    fn bombs_and_rubbish_lose_the_connection() {
        let mut client = ClientDeflater::default();
        let bomb = client.raw(&vec![0; BLOCK_LIMIT * 64]);
        assert!(bomb.len() < 4096);
        assert!(matches!(Inflater::default().read(1, &bomb), Err(ProtocolError::Connection(_))));
        assert!(matches!(Inflater::default().read(1, b"rubbish!"), Err(ProtocolError::Connection(_))));
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(b"another dictionary").unwrap();
        let other = ClientDeflater(zlib).headers(&[("a", "b")]);
        assert!(matches!(Inflater::default().read(1, &other), Err(ProtocolError::Connection(_))));
    }
}
