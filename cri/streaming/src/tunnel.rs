//! SPDY within WebSocket (`SPDY/3.1+portforward.k8s.io`): the payloads of binary messages are the bytes of a SPDY connection.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio_util::task::AbortOnDropHandle;

use super::input::Input;
use super::spdy::{Limits, Session};
use super::websocket::{self, Codec};
use super::wire::{BoxRead, BoxWrite, Chunk, PAYLOAD};

/// Bytes buffered between the two connections, each way.
const BETWEEN: usize = 64 * 1024;

/// The WebSocket around a SPDY connection.
pub(super) struct Tunnel {
    outer: websocket::Session,
    pumps: AbortOnDropHandle<()>,
}

impl Tunnel {
    /// Starts the SPDY connection within a WebSocket that has just been upgraded.
    pub(super) fn start(connection: (BoxRead, BoxWrite), limits: Limits) -> (Self, Session) {
        let (outer, mut inputs) = websocket::Session::start(connection, Codec::Tunnel, &[true], limits.idle);
        let input = inputs[0].take().expect("the channel is readable");
        let (inner, far) = duplex(BETWEEN);
        let (read, write) = split(inner);
        let pumps = tokio::spawn(pump(input, outer.output(0), far));
        let tunnel = Self { outer, pumps: AbortOnDropHandle::new(pumps) };
        (tunnel, Session::start(Box::new(read), Box::new(write), limits))
    }

    /// Closes the WebSocket once the SPDY connection has ended.
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
