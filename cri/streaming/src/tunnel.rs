//! SPDY within WebSocket: the messages of one connection, joined, are the bytes of another.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio_util::task::AbortOnDropHandle;

use super::input::Input;
use super::spdy::{Limits, Session};
use super::websocket::{self, Codec};
use super::wire::{BoxRead, BoxWrite, Chunk, PAYLOAD};

/// Bytes between the two connections, each way.
const BETWEEN: usize = 64 * 1024;

/// A tunnelled connection. The outer one lives as long as this.
pub(super) struct Tunnel {
    outer: websocket::Session,
    pumps: AbortOnDropHandle<()>,
}

impl Tunnel {
    /// The SPDY connection within a WebSocket that has just been upgraded.
    pub(super) fn start(connection: (BoxRead, BoxWrite), limits: Limits) -> (Self, Session) {
        let (outer, mut inputs) = websocket::Session::start(connection, Codec::Tunnel, &[true], limits.idle);
        let input = inputs[0].take().expect("the channel is readable");
        let (inner, far) = duplex(BETWEEN);
        let (read, write) = split(inner);
        let pumps = tokio::spawn(pump(input, outer.output(0), far));
        let tunnel = Self { outer, pumps: AbortOnDropHandle::new(pumps) };
        (tunnel, Session::start(Box::new(read), Box::new(write), limits))
    }

    /// Ends the outer connection once the inner one has.
    pub(super) async fn close(self) {
        drop(self.pumps);
        self.outer.close().await;
    }
}

async fn pump(mut input: Input, mut output: websocket::Output, far: tokio::io::DuplexStream) {
    let (mut read, mut write) = split(far);
    let inward = async {
        let mut buffer = Vec::new();
        while let Ok(1..) = input.fill(&mut buffer).await {
            if write.write_all(&buffer).await.is_err() {
                return;
            }
        }
        // The inner connection sees its end.
        let _ended = write.shutdown().await;
    };
    let outward = async {
        let mut chunk = Chunk::default();
        let mut buffer = vec![0; PAYLOAD];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            chunk.set(&buffer[..length]);
            if output.send(&mut chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(inward, outward);
}
