//! Encodes and decodes WebSocket frames, without state (RFC 6455, section 5).

/// The longest header of a client's frame: two bytes, a length of eight, a mask of four.
pub(crate) const HEADER_LIMIT: usize = 14;
/// Bytes of a control frame's payload (section 5.5).
pub(crate) const CONTROL_LIMIT: usize = 125;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// More of the message before it.
    Continuation,
    /// A message of text begins.
    Text,
    /// A message of bytes begins.
    Binary,
    /// The last frame.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    fn of(number: u8) -> Result<Self, ProtocolError> {
        match number {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::Text),
            2 => Ok(Self::Binary),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            _ => Err(ProtocolError("a frame of an unknown type")),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Whether it is a control frame, which may come between the frames of a message.
    #[must_use]
    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A violation of the protocol by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ProtocolError(pub &'static str);

/// The header of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// The last frame of its message.
    pub fin: bool,
    /// The opcode.
    pub opcode: Opcode,
    /// Bytes that follow.
    pub length: u64,
    /// The masking key.
    pub mask: [u8; 4],
}

/// Parses the header at the start of `bytes`; returns it with its length, or None when bytes are missing.
///
/// # Errors
/// A client may not send it.
pub(crate) fn parse_header(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let opcode = Opcode::of(first & 0x0f)?;
    let fin = first & 0x80 != 0;
    if first & 0x70 != 0 {
        return Err(ProtocolError("a frame with a reserved bit"));
    }
    if second & 0x80 == 0 {
        return Err(ProtocolError("a client's frame without a mask"));
    }
    if opcode.is_control() && (!fin || second & 0x7f > 125) {
        return Err(ProtocolError("a control frame that is cut up or too long"));
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((length, rest)) = rest.split_at_checked(extended) else { return Ok(None) };
    let Some((mask, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => length.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    };
    if length >> 63 != 0 {
        return Err(ProtocolError("a frame of 2^63 bytes"));
    }
    Ok(Some((FrameHeader { fin, opcode, length, mask: *mask }, 2 + extended + 4)))
}

/// Unmasks a piece of a payload that begins at `offset` of it.
pub(crate) fn unmask(piece: &mut [u8], mask: [u8; 4], offset: u64) {
    let mut mask = mask;
    mask.rotate_left(usize::try_from(offset % 4).expect("it is below 4"));
    // Eight bytes at a time: a payload is as long as the client likes.
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut words = piece.chunks_exact_mut(8);
    for word in &mut words {
        let value = u64::from_ne_bytes((&*word).try_into().expect("it has this length")) ^ wide;
        word.copy_from_slice(&value.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Makes the header of a server's frame that is a whole message: at most ten bytes.
#[must_use]
pub(crate) fn header(opcode: Opcode, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(11);
    bytes.push(0x80 | opcode.number());
    match length {
        0..=125 => bytes.push(u8::try_from(length).expect("it is below 126")),
        126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&u16::try_from(length).expect("it is below 2^16").to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes
}

/// Makes a server's frame.
#[must_use]
pub(crate) fn message(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(opcode, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{FrameHeader, Opcode, header, parse_header, unmask};

    #[test]
    fn heads_of_every_length_are_read() {
        let mask = [1, 2, 3, 4];
        for (bytes, length) in [
            (&[0x82, 0x85, 1, 2, 3, 4][..], 5),
            (&[0x82, 0xfe, 0x01, 0x00, 1, 2, 3, 4], 256),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], 65536),
        ] {
            let wanted = FrameHeader { fin: true, opcode: Opcode::Binary, length, mask };
            assert_eq!(parse_header(bytes), Ok(Some((wanted, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(parse_header(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_a_client_may_not_send_is_refused() {
        for (bytes, what) in [
            ([0x83, 0x80], "an unknown type"),
            ([0xc2, 0x80], "a reserved bit"),
            ([0x82, 0x05], "no mask"),
            ([0x09, 0x80], "a ping in pieces"),
            ([0x88, 0xfe], "a long close"),
        ] {
            assert!(parse_header(&bytes).is_err(), "{what}");
        }
        assert!(parse_header(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]).is_err(), "2^63 bytes");
    }

    #[test]
    fn a_mask_comes_off_in_pieces() {
        let plain: Vec<u8> = (0..100).collect();
        let mask = [0xa1, 0xb2, 0xc3, 0xd4];
        let masked: Vec<u8> = plain.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        for cut in [0, 1, 2, 3, 7, 50, 100] {
            let mut bytes = masked.clone();
            let (first, second) = bytes.split_at_mut(cut);
            unmask(first, mask, 0);
            unmask(second, mask, cut as u64);
            assert_eq!(bytes, plain, "cut at {cut}");
        }
    }

    #[test]
    fn our_heads_are_the_shortest() {
        assert_eq!(header(Opcode::Text, 125), [0x81, 125]);
        assert_eq!(header(Opcode::Binary, 126), [0x82, 126, 0, 126]);
        assert_eq!(header(Opcode::Binary, 65536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
