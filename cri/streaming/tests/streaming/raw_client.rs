//! A SPDY client that sends arbitrary bytes, and reads frame by frame.

use std::time::Duration;

use streaming::protocol::spdy_frame::{self as frame, FrameHeader, HEADER_LENGTH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fixture::{Fixture, PATIENCE, parts};

/// The stream ids of an exec without a terminal.
pub(crate) const ERROR: u32 = 1;
pub(crate) const STDIN: u32 = 3;
pub(crate) const STDOUT: u32 = 5;
pub(crate) const STDERR: u32 = 7;

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Data { stream: u32, fin: bool, bytes: Vec<u8> },
    SynReply(u32),
    RstStream { stream: u32, status: u32 },
    Ping(u32),
    GoAway(u32),
    WindowUpdate { stream: u32, delta: u32 },
    Other(u16),
    Closed,
}

pub(crate) struct RawClient {
    pub(crate) socket: TcpStream,
    begun: bool,
}

impl RawClient {
    /// Upgrades a connection; returns the server's response too.
    pub(crate) async fn upgrade(url: &str, headers: &str) -> (Self, String) {
        let (address, path) = parts(url);
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            match timeout(PATIENCE, socket.read_u8()).await.unwrap() {
                Ok(byte) => answer.push(byte),
                Err(_) => break,
            }
        }
        (Self { socket, begun: false }, String::from_utf8(answer).unwrap())
    }

    pub(crate) async fn spdy(url: &str, protocol: &str) -> Self {
        let headers = format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n");
        let (raw, answer) = Self::upgrade(url, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw
    }

    /// Opens the streams of an exec.
    pub(crate) async fn exec(url: &str, stdin: bool) -> Self {
        let mut raw = Self::spdy(url, "v4.channel.k8s.io").await;
        for (stream, kind) in [(ERROR, "error"), (STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")] {
            if stdin || stream != STDIN {
                raw.open(stream, &[("streamtype", kind)]).await;
            }
        }
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Opens a stream and waits for the reply.
    pub(crate) async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let frame = self.syn_stream(stream, headers);
        self.send(&frame).await;
        while self.next().await != Got::SynReply(stream) {}
    }

    pub(crate) fn syn_stream(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&self.stored(&block));
        control(1, 0, &payload)
    }

    /// A zlib stream of stored blocks: compression without a compressor.
    fn stored(&mut self, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap();
        let mut bytes = if std::mem::replace(&mut self.begun, true) { vec![] } else { vec![0x78, 0x01] };
        bytes.push(0);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&(!length).to_le_bytes());
        bytes.extend_from_slice(block);
        bytes
    }

    pub(crate) async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        let frame = [&frame::data(stream, fin, bytes.len())[..], bytes].concat();
        self.send(&frame).await;
    }

    pub(crate) async fn next(&mut self) -> Got {
        timeout(PATIENCE, self.read()).await.expect("the server says something in time")
    }

    /// Reads a frame within a time-out in milliseconds.
    pub(crate) async fn next_within(&mut self, milliseconds: u64) -> Option<Got> {
        timeout(Duration::from_millis(milliseconds), self.read()).await.ok()
    }

    async fn read(&mut self) -> Got {
        let mut head = [0; HEADER_LENGTH];
        if self.socket.read_exact(&mut head).await.is_err() {
            return Got::Closed;
        }
        match frame::parse_header(&head).unwrap() {
            FrameHeader::Data { stream, fin, length } => {
                let mut bytes = vec![0; length];
                self.socket.read_exact(&mut bytes).await.unwrap();
                Got::Data { stream, fin, bytes }
            }
            FrameHeader::Control { kind, length, .. } => {
                let mut payload = vec![0; length];
                self.socket.read_exact(&mut payload).await.unwrap();
                let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                match kind {
                    2 => Got::SynReply(word(0)),
                    3 => Got::RstStream { stream: word(0), status: word(4) },
                    6 => Got::Ping(word(0)),
                    7 => Got::GoAway(word(4)),
                    9 => Got::WindowUpdate { stream: word(0), delta: word(4) },
                    kind => Got::Other(kind),
                }
            }
        }
    }

    /// All frames up to the end, without those of every connection.
    pub(crate) async fn rest(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Got::Closed => return all,
                Got::Other(4) | Got::SynReply(_) => {}
                got => all.push(got),
            }
        }
    }
}

/// Makes a control frame of any type.
pub(crate) fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = vec![0x80, 3];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(length | u32::from(flags) << 24).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The status on the error stream.
pub(crate) fn status(all: &[Got]) -> String {
    let bytes = all.iter().flat_map(|got| match got {
        Got::Data { stream: ERROR, bytes, .. } => bytes.clone(),
        _ => Vec::new(),
    });
    String::from_utf8(bytes.collect()).unwrap()
}

/// Checks that the server still works.
pub(crate) async fn works(fixture: &Fixture) {
    let mut raw = RawClient::exec(&fixture.exec(&["print", "still here"], false), false).await;
    let all = raw.rest().await;
    assert!(all.iter().any(|got| matches!(got, Got::Data { bytes, .. } if bytes == b"still here\n")), "{all:?}");
    assert_eq!(status(&all), r#"{"status":"Success"}"#);
}
