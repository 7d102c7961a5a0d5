//! Encodes and decodes SPDY/3.1 frames, without state: <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>.

/// Bytes of the header of every frame.
pub const HEADER_LENGTH: usize = 8;
/// The version in the header of a control frame: 3.1 has the number of 3.
const VERSION: u16 = 3;
/// The bit that tells a control frame from a data frame.
const CONTROL: u32 = 1 << 31;
/// The most that a stream id, a window and a delta may be.
pub const MAX_31: u32 = (1 << 31) - 1;
/// FLAG_FIN: the sender's last frame on this stream.
const FIN: u8 = 1;
/// FLAG_UNIDIRECTIONAL: the receiver of a SYN_STREAM may not send on it.
const UNIDIRECTIONAL: u8 = 2;
/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW_SIZE: u32 = 7;
/// SETTINGS_MAX_CONCURRENT_STREAMS.
const MAX_CONCURRENT_STREAMS: u32 = 4;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The status of a RST_STREAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RstStatus {
    /// The peer broke the protocol on this stream.
    ProtocolError = 1,
    /// A frame for a stream that is not there.
    InvalidStream = 2,
    /// The stream was refused before anything was done for it.
    RefusedStream = 3,
    /// The stream's creator no longer needs it.
    Cancel = 5,
    /// The peer sent more than the window allows.
    FlowControlError = 7,
    /// The number is in use.
    StreamInUse = 8,
    /// A frame after the last.
    StreamAlreadyClosed = 9,
}

/// The status of a GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GoAwayStatus {
    /// A normal end.
    Ok = 0,
    /// The peer broke the protocol.
    ProtocolError = 1,
}

/// A violation of the protocol by the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A stream error: only this stream is reset.
    #[error("stream {stream}: {status:?}")]
    Stream {
        /// Which.
        stream: u32,
        /// The status of its RST_STREAM.
        status: RstStatus,
    },
    /// A session error: the connection ends with GOAWAY.
    #[error("{0}")]
    Connection(&'static str),
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameHeader {
    /// Data follow.
    Data {
        /// On this stream.
        stream: u32,
        /// The peer's last frame on it.
        fin: bool,
        /// Bytes that follow.
        length: usize,
    },
    /// A control frame follows.
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// Bytes that follow.
        length: usize,
    },
}

/// A control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The peer opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// We may send nothing on it.
        unidirectional: bool,
        /// Its headers, compressed.
        block: &'a [u8],
    },
    /// Headers for a stream that is open, or a reply.
    Headers {
        /// Its number.
        stream: u32,
        /// The peer will send nothing more on it.
        fin: bool,
        /// The headers, compressed.
        block: &'a [u8],
    },
    /// The peer resets a stream.
    RstStream {
        /// Its number.
        stream: u32,
    },
    /// The settings that concern us.
    Settings {
        /// The initial window of a stream, in bytes, where the peer sets it.
        initial_window: Option<u32>,
    },
    /// A PING of the peer, or its reply to ours.
    Ping(u32),
    /// The peer opens no more streams.
    GoAway,
    /// The peer opens the window of a stream or (0) of the connection.
    WindowUpdate {
        /// The stream's number, or 0.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
    /// An unknown type, which the draft says to ignore.
    Unknown,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Parses a frame's header.
///
/// # Errors
/// Another version.
pub fn parse_header(bytes: &[u8; HEADER_LENGTH]) -> Result<FrameHeader, ProtocolError> {
    let (first, second) = (word(bytes, 0), word(bytes, 4));
    let length = (second & 0x00ff_ffff) as usize;
    if first & CONTROL == 0 {
        return Ok(FrameHeader::Data { stream: first, fin: bytes[4] & FIN != 0, length });
    }
    if u16::from_be_bytes([bytes[0] & 0x7f, bytes[1]]) != VERSION {
        return Err(ProtocolError::Connection("a control frame of a version that is not 3"));
    }
    Ok(FrameHeader::Control { kind: u16::from_be_bytes([bytes[2], bytes[3]]), flags: bytes[4], length })
}

/// Parses the payload of a control frame.
///
/// # Errors
/// It is shorter or longer than its type allows, or names no stream where it must.
pub fn decode(kind: u16, flags: u8, payload: &[u8]) -> Result<Frame<'_>, ProtocolError> {
    let fin = flags & FIN != 0;
    match kind {
        SYN_STREAM => {
            let stream = stream(payload, 10..)?;
            let unidirectional = flags & UNIDIRECTIONAL != 0;
            Ok(Frame::SynStream { stream, fin, unidirectional, block: &payload[10..] })
        }
        SYN_REPLY | HEADERS => Ok(Frame::Headers { stream: stream(payload, 4..)?, fin, block: &payload[4..] }),
        RST_STREAM => Ok(Frame::RstStream { stream: stream(payload, 8..9)? }),
        SETTINGS => settings(payload),
        PING if payload.len() == 4 => Ok(Frame::Ping(word(payload, 0))),
        GOAWAY if payload.len() == 8 => Ok(Frame::GoAway),
        WINDOW_UPDATE if payload.len() == 8 => {
            Ok(Frame::WindowUpdate { stream: word(payload, 0) & MAX_31, delta: word(payload, 4) & MAX_31 })
        }
        PING | GOAWAY | WINDOW_UPDATE => Err(ProtocolError::Connection("a control frame of a wrong length")),
        _ => Ok(Frame::Unknown),
    }
}

/// Parses the stream id at the start of a payload of a valid length.
fn stream(payload: &[u8], lengths: impl std::ops::RangeBounds<usize>) -> Result<u32, ProtocolError> {
    if !lengths.contains(&payload.len()) {
        return Err(ProtocolError::Connection("a control frame of a wrong length"));
    }
    match word(payload, 0) & MAX_31 {
        0 => Err(ProtocolError::Connection("a frame for stream 0")),
        stream => Ok(stream),
    }
}

fn settings(payload: &[u8]) -> Result<Frame<'_>, ProtocolError> {
    let wrong = ProtocolError::Connection("settings of a wrong length");
    if payload.len() < 4 {
        return Err(wrong);
    }
    let entries = &payload[4..];
    if usize::try_from(word(payload, 0)).is_ok_and(|count| count.checked_mul(8) != Some(entries.len())) {
        return Err(wrong);
    }
    let mut initial_window = None;
    for entry in entries.chunks_exact(8) {
        if word(entry, 0) & 0x00ff_ffff == INITIAL_WINDOW_SIZE {
            initial_window = Some(word(entry, 4));
        }
    }
    if initial_window.is_some_and(|window| window > MAX_31) {
        return Err(ProtocolError::Connection("an initial window above 2^31 - 1"));
    }
    Ok(Frame::Settings { initial_window })
}

/// Makes the header of a data frame.
///
/// # Panics
/// For more than 2^24 - 1 bytes.
#[must_use]
pub fn data(stream: u32, fin: bool, length: usize) -> [u8; HEADER_LENGTH] {
    let length = u32::try_from(length).ok().filter(|length| length >> 24 == 0).expect("a frame is below 16 MiB");
    pair(stream, length | u32::from(fin) << 24)
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_be_bytes());
    bytes[4..].copy_from_slice(&second.to_be_bytes());
    bytes
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("our control frames are short");
    let mut frame = Vec::with_capacity(HEADER_LENGTH + payload.len());
    frame.extend_from_slice(&pair(CONTROL | u32::from(VERSION) << 16 | u32::from(kind), length));
    frame.extend_from_slice(payload);
    frame
}

/// Makes a SYN_REPLY.
#[must_use]
pub fn syn_reply(stream: u32, block: &[u8]) -> Vec<u8> {
    control(SYN_REPLY, &[&stream.to_be_bytes(), block].concat())
}

/// Makes a RST_STREAM.
#[must_use]
pub fn rst_stream(stream: u32, status: RstStatus) -> Vec<u8> {
    control(RST_STREAM, &pair(stream, status as u32))
}

/// Makes a PING.
#[must_use]
pub fn ping(id: u32) -> Vec<u8> {
    control(PING, &id.to_be_bytes())
}

/// Makes a SETTINGS frame with MAX_CONCURRENT_STREAMS.
#[must_use]
pub fn settings_max_streams(streams: u32) -> Vec<u8> {
    control(SETTINGS, &[&1u32.to_be_bytes()[..], &pair(MAX_CONCURRENT_STREAMS, streams)].concat())
}

/// Makes a GOAWAY.
#[must_use]
pub fn go_away(last: u32, status: GoAwayStatus) -> Vec<u8> {
    control(GOAWAY, &pair(last, status as u32))
}

/// Makes a WINDOW_UPDATE.
#[must_use]
pub fn window_update(stream: u32, delta: u32) -> Vec<u8> {
    control(WINDOW_UPDATE, &pair(stream, delta))
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameHeader, GoAwayStatus, HEADER_LENGTH, ProtocolError, RstStatus};

    fn read(bytes: &[u8]) -> Result<Frame<'_>, ProtocolError> {
        let FrameHeader::Control { kind, flags, length } =
            super::parse_header(bytes[..HEADER_LENGTH].try_into().unwrap())?
        else {
            panic!("a control frame");
        };
        assert_eq!(length, bytes.len() - HEADER_LENGTH);
        super::decode(kind, flags, &bytes[HEADER_LENGTH..])
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        assert_eq!(read(&super::ping(7)), Ok(Frame::Ping(7)));
        assert_eq!(read(&super::rst_stream(3, RstStatus::Cancel)), Ok(Frame::RstStream { stream: 3 }));
        assert_eq!(read(&super::go_away(5, GoAwayStatus::Ok)), Ok(Frame::GoAway));
        assert_eq!(read(&super::window_update(0, 9)), Ok(Frame::WindowUpdate { stream: 0, delta: 9 }));
        assert_eq!(read(&super::settings_max_streams(4)), Ok(Frame::Settings { initial_window: None }));
        let reply = super::syn_reply(9, b"xyz");
        assert_eq!(read(&reply), Ok(Frame::Headers { stream: 9, fin: false, block: b"xyz" }));
        let data = super::data(11, true, 70_000);
        assert_eq!(super::parse_header(&data), Ok(FrameHeader::Data { stream: 11, fin: true, length: 70_000 }));
    }

    #[test]
    fn a_known_frame_is_written_as_the_draft_draws_it() {
        assert_eq!(super::rst_stream(1, RstStatus::Cancel), [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]);
        assert_eq!(super::data(1, true, 0x01_0203), [0, 0, 0, 1, 1, 1, 2, 3]);
    }

    #[test]
    fn malformed_frames_are_violations() {
        for (kind, payload) in [
            (1, &[0; 9][..]),
            (1, &[0; 10]),
            (2, &[0, 0, 1]),
            (2, &[0, 0, 0, 0]),
            (3, &[0, 0, 0, 1]),
            (3, &[0, 0, 0, 1, 0, 0, 0, 1, 0]),
            (4, &[]),
            (4, &[0, 0, 0, 1]),
            (4, &[0xff; 4]),
            (4, &[0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]),
            (6, &[]),
            (6, &[0; 8]),
            (7, &[0; 4]),
            (8, &[]),
            (9, &[0; 7]),
        ] {
            let result = super::decode(kind, 0, payload);
            assert!(matches!(result, Err(ProtocolError::Connection(_))), "{kind} {payload:?}: {result:?}");
        }
        assert!(super::parse_header(&[0x80, 2, 0, 1, 0, 0, 0, 0]).is_err(), "version 2");
        assert_eq!(super::decode(77, 0, &[1, 2]), Ok(Frame::Unknown));
    }
}
