//! Netlink messages, encoded and decoded by hand: rtnetlink(7) on Linux and its twin rtnetlink(4) on FreeBSD 14 and later
//! have the same layout, and one message in place of a program keeps an attach in the milliseconds. What differs between
//! the two (the address family's number, what an attribute means) is the backends' business.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// The limit for an answer. The kernel answers while it handles the request, so only a bug reaches it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per read: a datagram has at most 32 KiB (NLMSG_GOODSIZE rounded up).
const READ_LENGTH: usize = 64 << 10;
/// Messages per dump, far more than a node has interfaces: bounds a dump that does not end.
const DUMP_LIMIT: usize = 100_000;
/// Attempts of a dump that is interrupted by a change of the list.
const DUMP_TRIES: u32 = 5;

/// Bytes of the header: length u32, type u16, flags u16, sequence u32, port u32.
const HEADER_LENGTH: usize = 16;
/// An acknowledgement: an errno, 0 for success.
const ERROR: u16 = 2;
/// The end of a dump.
const DONE: u16 = 3;

/// Flags of a request.
pub mod flag {
    /// A request.
    pub const REQUEST: u16 = 0x1;
    /// Acknowledge success too.
    pub const ACK: u16 = 0x4;
    /// In an answer: the list changed during the dump.
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    /// In a NEW request: replace an existing object.
    pub const REPLACE: u16 = 0x100;
    /// In a NEW request: fail if the object exists.
    pub const EXCL: u16 = 0x200;
    /// In a GET request: dump all objects.
    pub const DUMP: u16 = 0x300;
    /// In a NEW request: create the object.
    pub const CREATE: u16 = 0x400;
}

/// A request.
#[derive(Debug, Clone)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// Creates a request; `header` is the fixed part of its type (`struct ifinfomsg` …).
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut message = Self { kind, flags: flags | flag::REQUEST, body: Vec::new() };
        message.pad(header);
        message
    }

    /// Adds an attribute. The callers bound its length: names, addresses, numbers.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.pad(value);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Adds a NUL-terminated string.
    #[must_use]
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.with(kind, &value)
    }

    /// Adds a nested attribute: the content of `inner` with its header.
    #[must_use]
    pub fn with_nested(self, kind: u16, inner: &Self) -> Self {
        let body = inner.body.clone();
        self.with(kind, &body)
    }

    /// Creates a nested attribute list; `header` as in [`Message::new`].
    #[must_use]
    pub fn nest(header: &[u8]) -> Self {
        Self::new(0, 0, header)
    }

    /// Adds bytes and pads to four.
    fn pad(&mut self, bytes: &[u8]) {
        self.body.extend(bytes);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn encode(&self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(HEADER_LENGTH + self.body.len()).expect("a request is short");
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + self.body.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The sequence number of its request.
    pub sequence: u32,
    /// The bytes after the header.
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns its errno; 0 for an acknowledgement, None for any other message.
    fn errno(&self) -> Option<i32> {
        match self.kind {
            // Linux sends -errno, FreeBSD errno.
            ERROR => Some(number(&self.body).map_or(0, i32::from_ne_bytes).saturating_abs()),
            DONE => Some(number(&self.body).map_or(0, i32::from_ne_bytes).saturating_abs()),
            _ => None,
        }
    }

    /// Returns the attributes after a fixed part of `header` bytes.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Vec<(u16, &[u8])> {
        attributes(self.body.get(header.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// The first four bytes.
fn number(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.first_chunk::<4>().copied()
}

/// Decodes the messages of a datagram. A truncated message ends the list.
#[must_use]
pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_LENGTH>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = bytes.get(HEADER_LENGTH..length) else { break };
        answers.push(Answer {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body: body.to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// Decodes attributes, their type without the two flag bits. A truncated attribute ends the list.
#[must_use]
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut attributes = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(value) = bytes.get(4..length) else { break };
        attributes.push((u16::from_ne_bytes([header[2], header[3]]) & 0x3fff, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    attributes
}

/// Decodes a NUL-terminated string.
#[must_use]
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A netlink socket, used by one thread at a time.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: Cell<u32>,
}

impl Connection {
    /// Opens a socket in the calling thread's network, where it stays.
    ///
    /// # Errors
    /// Any error of socket(2).
    pub fn open(family: i32, protocol: i32) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(family), Type::RAW, Some(Protocol::from(protocol)))?;
        Self::from_socket(socket)
    }

    /// Wraps a socket, which may be of another network.
    ///
    /// # Errors
    /// Any error of setsockopt(2).
    pub fn from_socket(socket: Socket) -> io::Result<Self> {
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Sends a request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's errno; no answer within ten seconds.
    pub fn request(&self, message: &Message) -> io::Result<()> {
        self.exchange(message, flag::ACK).map(drop)
    }

    /// Sends a request for one object and returns it.
    ///
    /// # Errors
    /// As [`Connection::request`]; an acknowledgement without an answer.
    pub fn get(&self, message: &Message) -> io::Result<Answer> {
        let mut answers = self.exchange(message, flag::ACK)?;
        if answers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel did not answer"));
        }
        Ok(answers.swap_remove(0))
    }

    /// Lists all objects of a kind. Repeats the dump if the list changed.
    ///
    /// # Errors
    /// As [`Connection::request`]; a list that changed during every attempt.
    pub fn dump(&self, message: &Message) -> io::Result<Vec<Answer>> {
        for _ in 0..DUMP_TRIES {
            let answers = self.exchange(message, flag::DUMP)?;
            if !answers.iter().any(|answer| answer.flags & flag::DUMP_INTERRUPTED != 0) {
                return Ok(answers);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the list changed during every dump"))
    }

    /// Sends a request and collects the answers up to the acknowledgement or the end of the dump.
    fn exchange(&self, message: &Message, flags: u16) -> io::Result<Vec<Answer>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let late = host::late("the kernel");
        (&self.socket).write_all(&message.encode(sequence, flags)).map_err(&late)?;
        let mut collected = Vec::new();
        let mut buffer = vec![0; READ_LENGTH];
        loop {
            let length = (&self.socket).read(&mut buffer).map_err(&late)?;
            for answer in answers(&buffer[..length]).into_iter().filter(|answer| answer.sequence == sequence) {
                match answer.errno() {
                    Some(0) => return Ok(collected),
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None if collected.len() < DUMP_LIMIT => collected.push(answer),
                    None => return Err(io::Error::other("the dump does not end")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Message, answers, attributes, flag, text};

    #[test]
    fn a_message_is_aligned_and_reads_back() {
        let inner = Message::nest(&[]).with_text(1, "veth");
        let message = Message::new(16, flag::CREATE, &[1, 2, 3, 4]).with_text(3, "eth0").with_nested(18, &inner);
        let bytes = message.encode(7, flag::ACK);
        assert_eq!(bytes.len() % 4, 0);
        let read = answers(&bytes);
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, read[0].sequence), (16, 7));
        assert_eq!(read[0].flags, flag::CREATE | flag::REQUEST | flag::ACK);
        let found = read[0].attributes(4);
        assert_eq!((found[0].0, text(found[0].1)), (3, "eth0".to_owned()));
        assert_eq!(attributes(found[1].1)[0], (1, &b"veth\0"[..]));
    }

    #[test]
    fn what_is_cut_short_ends_the_list() {
        let whole = Message::new(16, 0, &[]).with(1, &[1, 2, 3]).encode(1, 0);
        for cut in 0..whole.len() {
            assert!(answers(&whole[..cut]).is_empty(), "{cut}");
        }
        for (bytes, expected) in [(&[0, 0, 0, 0][..], 0), (&[8, 0, 1, 0, 9], 0), (&[5, 0, 1, 0, 9], 1)] {
            assert_eq!(attributes(bytes).len(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_errno_is_told_from_an_acknowledgement() {
        let mut error = Message::new(2, 0, &(-17i32).to_ne_bytes()).encode(1, 0);
        assert_eq!(answers(&error)[0].errno(), Some(17));
        error.truncate(16);
        error[0] = 16;
        assert_eq!(answers(&error)[0].errno(), Some(0));
        assert_eq!(answers(&Message::new(16, 0, &[]).encode(1, 0))[0].errno(), None);
    }
}
