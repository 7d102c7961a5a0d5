//! Requests of clients that name the socket as the authority, which is no host: gRPC's C core percent-encodes it, grpc-java does not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::world::World;

/// HTTP/2's frames of data, headers, an end of a stream, and settings (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let header = [0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    [&header, payload].concat()
}

/// A literal field with its name spelled out, as the C core writes it.
fn field(name: &str, value: &str) -> Vec<u8> {
    let string = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0x40], string(name), string(value)].concat()
}

/// Asks for the version with this authority; returns the type of the first frame on the request's stream.
fn ask(mut stream: UnixStream, authority: &str) -> u8 {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/runtime.v1.RuntimeService/Version"),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let block = fields.map(|(name, value)| field(name, value)).concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // An empty message, which ends the request.
    let message = frame(DATA, 1, 1, &[0; 5]);
    let request = [preface, frame(SETTINGS, 0, 0, &[]), frame(HEADERS, 4, 1, &block), message].concat();
    stream.write_all(&request).unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).unwrap();
        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
        stream.read_exact(&mut vec![0; length]).unwrap();
        if header[8] == 1 && [HEADERS, RESET].contains(&header[3]) {
            return header[3];
        }
    }
}

#[test]
fn a_path_as_the_authority_is_no_reason_to_refuse() {
    let world = World::new();
    let server = world.start();
    for authority in ["%2Frun%2Fcellblock.sock", "/run/cellblock.sock", "localhost"] {
        assert_eq!(ask(UnixStream::connect(&server.socket).unwrap(), authority), HEADERS, "{authority}");
    }
    server.stop();
}
