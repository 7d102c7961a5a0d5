//! The channels of a WebSocket: a message begins with its channel, as a byte or, in base64, as a digit. Messages are decoded as
//! they arrive, in pieces of any size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::frame::{Opcode, ProtocolError, header};
use crate::wire::Chunk;

/// The channel number of v5.channel.k8s.io's close signal: the channel to close follows.
const CLOSE_SIGNAL: u8 = 255;

/// The encoding of channels in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// The first byte is the channel.
    Binary,
    /// The same, and channel 255 is the close signal.
    BinaryWithClose,
    /// The first character is the channel's digit, the rest is base64.
    Base64,
    /// There are no channels: messages are pieces of one stream, channel 0.
    Tunnel,
}

/// A decoded piece of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Bytes for a channel.
    Data(u8, &'a [u8]),
    /// The client has closed a channel.
    Finished(u8),
}

/// Decodes messages while they arrive.
#[derive(Debug)]
pub(crate) struct MessageDecoder {
    codec: Codec,
    channel: Option<u8>,
    /// An incomplete group of four characters.
    group: Vec<u8>,
    decoded: Vec<u8>,
    padded: bool,
}

impl MessageDecoder {
    /// A decoder at the start of a message.
    #[must_use]
    pub(crate) fn new(codec: Codec) -> Self {
        Self { codec, channel: None, group: Vec::new(), decoded: Vec::new(), padded: false }
    }

    /// Decodes the next piece of the message; None: it yields nothing yet.
    ///
    /// # Errors
    /// Not base64, or an end of a channel that is not one.
    pub(crate) fn piece<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Piece<'a>>, ProtocolError> {
        if self.codec == Codec::Tunnel {
            return Ok(Some(Piece::Data(0, bytes)));
        }
        let (channel, bytes) = match (self.channel, bytes) {
            (_, []) => return Ok(None),
            (Some(channel), bytes) => (channel, bytes),
            (None, [first, rest @ ..]) => {
                self.channel = Some(*first);
                (*first, rest)
            }
        };
        match self.codec {
            Codec::BinaryWithClose if channel == CLOSE_SIGNAL => match (bytes, self.padded) {
                ([], _) => Ok(None),
                ([finished], false) => {
                    self.padded = true;
                    Ok(Some(Piece::Finished(*finished)))
                }
                _ => Err(ProtocolError("an end of more than one channel")),
            },
            Codec::Base64 => {
                self.decode(bytes)?;
                Ok(Some(Piece::Data(channel.wrapping_sub(b'0'), &self.decoded)))
            }
            _ => Ok(Some(Piece::Data(channel, bytes))),
        }
    }

    /// Decodes as many groups of four characters as are whole.
    fn decode(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let wrong = ProtocolError("a message that is not base64");
        self.decoded.clear();
        self.group.extend_from_slice(bytes);
        let whole = self.group.len() / 4 * 4;
        if whole == 0 {
            return Ok(());
        }
        if self.padded {
            return Err(wrong);
        }
        STANDARD.decode_vec(&self.group[..whole], &mut self.decoded).map_err(|_| wrong)?;
        self.padded = self.group[whole - 1] == b'=';
        self.group.drain(..whole);
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// It was cut off within a group of base64.
    pub(crate) fn finish(&mut self) -> Result<(), ProtocolError> {
        self.channel = None;
        self.padded = false;
        if self.group.is_empty() { Ok(()) } else { Err(ProtocolError("a message that is not base64")) }
    }
}

/// The frame that carries the rest of a chunk on a channel; `text` is room for the base64.
pub(crate) fn encode<'a>(codec: Codec, channel: u8, chunk: &'a mut Chunk, text: &'a mut String) -> &'a [u8] {
    let length = chunk.payload().len();
    match codec {
        Codec::Tunnel => chunk.frame(&header(Opcode::Binary, length), length),
        Codec::Binary | Codec::BinaryWithClose => {
            let mut head = header(Opcode::Binary, length + 1);
            head.push(channel);
            chunk.frame(&head, length)
        }
        Codec::Base64 => {
            // The head's length depends on that of the text, which is known: four characters for three bytes.
            let head = header(Opcode::Text, 1 + length.div_ceil(3) * 4);
            text.clear();
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(chunk.payload(), text);
            *chunk = Chunk::of(text.as_bytes());
            let length = chunk.payload().len();
            chunk.frame(&head, length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Codec, MessageDecoder, Piece, encode};

    fn feed(codec: Codec, pieces: &[&[u8]]) -> Result<Vec<(u8, Vec<u8>)>, super::ProtocolError> {
        let mut message = MessageDecoder::new(codec);
        let mut seen = Vec::new();
        for piece in pieces {
            match message.piece(piece)? {
                Some(Piece::Data(channel, bytes)) => seen.push((channel, bytes.to_vec())),
                Some(Piece::Finished(channel)) => seen.push((channel, b"END".to_vec())),
                None => {}
            }
        }
        message.finish()?;
        Ok(seen)
    }

    #[test]
    fn a_channel_is_known_through_all_pieces_of_its_message() {
        let seen = feed(Codec::Binary, &[b"", b"\x01", b"ab", b"c"]).unwrap();
        assert_eq!(seen, [(1, vec![]), (1, b"ab".to_vec()), (1, b"c".to_vec())]);
        assert_eq!(feed(Codec::Tunnel, &[b"ab"]).unwrap(), [(0, b"ab".to_vec())]);
        assert_eq!(feed(Codec::Binary, &[b"\xff\x00"]).unwrap(), [(255, vec![0])], "no signal before v5");
    }

    #[test]
    fn v5_ends_one_channel() {
        assert_eq!(feed(Codec::BinaryWithClose, &[b"\xff\x00"]).unwrap(), [(0, b"END".to_vec())]);
        assert_eq!(feed(Codec::BinaryWithClose, &[b"\xff", b"\x04"]).unwrap(), [(4, b"END".to_vec())]);
        assert!(feed(Codec::BinaryWithClose, &[b"\xff\x00\x01"]).is_err());
        assert!(feed(Codec::BinaryWithClose, &[b"\xff\x00", b"\x01"]).is_err());
    }

    #[test]
    fn base64_is_decoded_however_it_is_cut() {
        let text = b"0Zm9vIGJhcg==";
        for cut in 1..text.len() {
            let (first, second) = text.split_at(cut);
            let seen = feed(Codec::Base64, &[first, second]).unwrap();
            let bytes: Vec<u8> = seen.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            assert_eq!(bytes, b"foo bar", "cut at {cut}");
            assert!(seen.iter().all(|(channel, _)| *channel == 0));
        }
        for wrong in [&b"0Zm9"[..], b"0Zm9v!aaa", b"0Zg==Zg=="] {
            assert!(feed(Codec::Base64, &[wrong]).is_err(), "{wrong:?}");
        }
        assert!(feed(Codec::Base64, &[b"0Zg==", b"Zg=="]).is_err(), "padding within a message");
    }

    #[test]
    fn what_is_sent_carries_its_channel() {
        let mut text = String::new();
        assert_eq!(encode(Codec::Binary, 1, &mut Chunk::of(b"ab"), &mut text), b"\x82\x03\x01ab");
        assert_eq!(encode(Codec::Tunnel, 0, &mut Chunk::of(b"ab"), &mut text), b"\x82\x02ab");
        assert_eq!(encode(Codec::Base64, 2, &mut Chunk::of(b"foo"), &mut text), b"\x81\x052Zm9v");
        assert_eq!(encode(Codec::Binary, 3, &mut Chunk::of(b""), &mut text), b"\x82\x01\x03");
    }
}
