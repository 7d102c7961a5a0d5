//! Makes the `:authority` of HTTP/2 requests legal. Clients on gRPC's C core (Python, C++, Ruby) and grpc-java send the path of a
//! unix socket there, percent-encoded or plain, and h2 ends such a stream with PROTOCOL_ERROR; it has no option (h2 0.4.20,
//! hyperium/h2#487). Nobody reads the authority of a request here, so a filter before tonic overwrites it in the bytes that a
//! client sends: each illegal byte by a dash, a Huffman-coded value by as many letters. No length changes.
//!
//! The filter walks frames (RFC 9113, 4.1 and 6.2) and the fields of header blocks (RFC 7541, 6). It keeps no dynamic table: a name
//! is known by its index in the static table or because it is spelled out, and a value enters the table already legal. What it
//! does not understand it leaves as it is: h2 judges it.

/// Bytes of the connection preface, and of a frame's header.
const PREFACE: usize = 24;
const HEADER: usize = 9;
/// Frame types and flags.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of the priority in a HEADERS frame.
const PRIORITY_LENGTH: usize = 5;
/// `:authority`, and its index in the static table (RFC 7541, appendix A).
const NAME: &[u8] = b":authority";
const INDEX: usize = 1;
/// The flag of a Huffman-coded string.
const HUFFMAN: u8 = 0x80;
/// The largest shift of a continued integer: no string is longer than a gigabyte.
const LARGEST_SHIFT: u32 = 21;
/// What replaces illegal bytes, and those of a Huffman code.
const DASH: u8 = b'-';
const LETTER: u8 = b'x';

/// The filter of one connection.
#[derive(Debug)]
pub(crate) struct Filter {
    place: Place,
    fields: Fields,
}

/// Where the next byte stands.
#[derive(Debug)]
enum Place {
    /// In a frame's header.
    Header { bytes: [u8; HEADER], seen: usize },
    /// The length of the padding; then the rest of the payload.
    Padding { priority: usize, left: usize },
    /// Bytes that are no field, of the header block, and again none.
    Payload { before: usize, block: usize, after: usize },
}

impl Place {
    const FRAME: Self = Self::Header { bytes: [0; HEADER], seen: 0 };

    /// Where the payload of a frame begins.
    fn payload_of(header: &[u8; HEADER], fields: &mut Fields) -> Self {
        let length = header[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let (kind, flags) = (header[3], header[4]);
        let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_LENGTH };
        match kind {
            HEADERS => {
                *fields = Fields::default();
                if flags & PADDED != 0 && length > 0 {
                    return Self::Padding { priority, left: length - 1 };
                }
                Self::block(length, priority, 0)
            }
            CONTINUATION => Self::block(length, 0, 0),
            _ => Self::Payload { before: length, block: 0, after: 0 },
        }
    }

    fn block(length: usize, before: usize, after: usize) -> Self {
        let before = before.min(length);
        let block = (length - before).saturating_sub(after);
        Self::Payload { before, block, after: length - before - block }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self { place: Place::Payload { before: PREFACE, block: 0, after: 0 }, fields: Fields::default() }
    }
}

impl Filter {
    /// Passes the next bytes of the connection.
    pub(crate) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let passed = match &mut self.place {
                Place::Header { bytes: header, seen } => {
                    header[*seen] = bytes[0];
                    *seen += 1;
                    if *seen == HEADER {
                        self.place = Place::payload_of(&{ *header }, &mut self.fields);
                    }
                    1
                }
                Place::Padding { priority, left } => {
                    self.place = Place::block(*left, *priority, usize::from(bytes[0]));
                    1
                }
                Place::Payload { before: 0, block: 0, after: 0 } => {
                    self.place = Place::FRAME;
                    0
                }
                Place::Payload { before: 0, block: 0, after: left } | Place::Payload { before: left @ 1.., .. } => {
                    let passed = bytes.len().min(*left);
                    *left -= passed;
                    passed
                }
                Place::Payload { block, .. } => {
                    let passed = bytes.len().min(*block);
                    *block -= passed;
                    bytes[..passed].iter_mut().for_each(|byte| self.fields.pass(byte));
                    passed
                }
            };
            bytes = &mut bytes[passed..];
        }
    }
}

/// The fields of a header block.
#[derive(Debug, Default)]
struct Fields {
    next: Next,
    /// How many bytes of the name `:authority` were matched; None: it is another name.
    matched: Option<usize>,
    /// The value is Huffman-coded, and overwritten whole.
    coded: bool,
}

/// What the next byte of a block is.
#[derive(Debug, Clone, Copy, Default)]
enum Next {
    /// The first one of a field.
    #[default]
    Field,
    /// The first one of a string's length.
    Length(Number),
    /// A later one of a number.
    Number {
        value: usize,
        shift: u32,
        of: Number,
    },
    /// So many of a name, of a value.
    Name(usize),
    Value(usize),
    /// Unknown: a number had no end.
    Lost,
}

/// What a number is.
#[derive(Debug, Clone, Copy)]
enum Number {
    /// The index of a whole field, or the size of the table: nothing follows.
    Whole,
    /// The index of a name; 0: it is spelled out.
    Name,
    NameLength,
    ValueLength,
}

impl Fields {
    fn pass(&mut self, byte: &mut u8) {
        self.next = match self.next {
            Next::Field => {
                let (prefix, of) = match byte.leading_zeros() {
                    0 => (7, Number::Whole),
                    1 => (6, Number::Name),
                    2 => (5, Number::Whole),
                    _ => (4, Number::Name),
                };
                self.number(*byte, prefix, of)
            }
            Next::Length(of) => {
                let coded = *byte & HUFFMAN != 0;
                match of {
                    Number::ValueLength if self.is_authority() => {
                        self.coded = coded;
                        *byte &= !HUFFMAN;
                    }
                    Number::NameLength => self.matched = (!coded).then_some(0),
                    _ => (),
                }
                self.number(*byte, 7, of)
            }
            Next::Number { shift, .. } if shift > LARGEST_SHIFT => Next::Lost,
            Next::Number { value, shift, of } => {
                let value = value + (usize::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 { self.known(value, of) } else { Next::Number { value, shift: shift + 7, of } }
            }
            Next::Name(left) => {
                self.matched = self.matched.filter(|at| NAME.get(*at) == Some(byte)).map(|at| at + 1);
                if left == 1 { Next::Length(Number::ValueLength) } else { Next::Name(left - 1) }
            }
            Next::Value(left) => {
                if self.is_authority() {
                    *byte = if self.coded { LETTER } else { legal(*byte) };
                }
                if left == 1 { Next::Field } else { Next::Value(left - 1) }
            }
            Next::Lost => Next::Lost,
        };
    }

    fn is_authority(&self) -> bool {
        self.matched == Some(NAME.len())
    }

    /// The first byte of a number, which has `prefix` bits of it.
    fn number(&mut self, byte: u8, prefix: u32, of: Number) -> Next {
        let most = (1 << prefix) - 1;
        let value = usize::from(byte & most);
        if value == usize::from(most) { Next::Number { value, shift: 0, of } } else { self.known(value, of) }
    }

    fn known(&mut self, value: usize, of: Number) -> Next {
        match (of, value) {
            (Number::Name, 0) => Next::Length(Number::NameLength),
            (Number::Name, index) => {
                self.matched = (index == INDEX).then_some(NAME.len());
                Next::Length(Number::ValueLength)
            }
            (Number::NameLength, 0) => Next::Length(Number::ValueLength),
            (Number::NameLength, length) => Next::Name(length),
            (Number::ValueLength, 1..) => Next::Value(value),
            (Number::Whole, _) | (Number::ValueLength, 0) => Next::Field,
        }
    }
}

/// Returns what a host's name may have in place of this byte.
fn legal(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() || [b'-', b'.', b'_'].contains(&byte) { byte } else { DASH }
}

#[cfg(test)]
mod tests {
    use super::{Filter, NAME};

    /// A frame after the preface.
    fn connection(frames: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, flags, payload) in frames {
            bytes.extend([0, 0, u8::try_from(payload.len()).unwrap(), *kind, *flags, 0, 0, 0, 1]);
            bytes.extend(*payload);
        }
        bytes
    }

    fn string(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    /// Passes the frames whole and byte by byte.
    fn passed(frames: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut whole = connection(frames);
        let mut single = whole.clone();
        Filter::default().pass(&mut whole);
        let mut filter = Filter::default();
        single.iter_mut().for_each(|byte| filter.pass(std::slice::from_mut(byte)));
        assert_eq!(whole, single);
        whole
    }

    #[test]
    fn the_authority_becomes_legal_however_it_is_written() {
        let path = string(b"%2Frun%2Fc.sock");
        let spelled = [&[0x40][..], &string(NAME), &path].concat();
        let long = "%2F".repeat(60);
        // 180 is 127 and 53 in the next byte.
        let long = [&[0x41, 127, 53], long.as_bytes()].concat();
        let cases: [(&str, Vec<u8>, &str); 5] = [
            ("indexed", [&[0x41][..], &path].concat(), "-2Frun-2Fc.sock"),
            ("not indexed", [&[0x83, 0x01][..], &path].concat(), "-2Frun-2Fc.sock"),
            ("spelled", spelled, "-2Frun-2Fc.sock"),
            ("long", long, &"-2F".repeat(60)),
            ("coded", vec![0x41, 0x80 | 4, 0xff, 0, 0xff, 0], "\u{4}xxxx"),
        ];
        for (name, block, expected) in cases {
            let after = passed(&[(4, 0, b"settings"), (1, 4, &block), (0, 1, b"%%%")]);
            let expected = [expected.as_bytes(), &[0, 0, 3, 0, 1, 0, 0, 0, 1], b"%%%"].concat();
            assert!(after.ends_with(&expected), "{name}: {}", after.escape_ascii());
        }
    }

    #[test]
    fn nothing_else_changes() {
        let path = [&[0x04][..], &string(b"/runtime.v1.RuntimeService/Version")].concat();
        let other = [&[0x40][..], &string(b":authoritx"), &string(b"%2F")].concat();
        let coded = [&[0x40][..], &[0x80 | 2, 1, 2], &string(b"%2F")].concat();
        for block in [
            &path,
            &other,
            &coded,
            &vec![0x41, 4, b'h', b'o', b's', b't'],
            &vec![0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            let frames = [(1, 4, &block[..]), (6, 0, &b"%2F"[..])];
            assert_eq!(passed(&frames), connection(&frames));
        }
    }

    #[test]
    fn padding_priority_and_continuations_are_stepped_over() {
        let block = [&[0x41][..], &string(b"a%b")].concat();
        let padded = [&[2, 9, 9, 9, 9, 9][..], &block[..2], b"%%"].concat();
        let after = passed(&[(1, 0x8 | 0x20, &padded), (9, 4, &block[2..])]);
        let expected = [&padded[..], &[0, 0, 3, 9, 4, 0, 0, 0, 1], b"a-b"].concat();
        assert!(after.ends_with(&expected), "{}", after.escape_ascii());
    }
}
