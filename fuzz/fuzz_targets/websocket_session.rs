//! A whole WebSocket connection, in the codec that the first byte says: whatever arrives, it ends when the client does.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use streaming::protocol::Chunk;
use streaming::protocol::{Codec, WebSocketSession as Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};

fuzz_target!(|bytes: &[u8]| {
    let Some((codec, bytes)) = bytes.split_first() else { return };
    let codec = match codec % 4 {
        0 => Codec::Binary,
        1 => Codec::BinaryWithClose,
        2 => Codec::Base64,
        _ => Codec::Tunnel,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(connection(codec, bytes));
});

async fn connection(codec: Codec, bytes: &[u8]) {
    let (ours, theirs) = duplex(1 << 16);
    let (read, write) = split(ours);
    let channels = [true, false, false, false, true];
    let (session, inputs) =
        Session::start((Box::new(read), Box::new(write)), codec, &channels, Duration::from_secs(60));
    let ended = session.ended();
    for mut input in inputs.into_iter().flatten() {
        let mut output = session.output(1);
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Ok(1..) = input.fill(&mut buffer).await {
                if output.send(&mut Chunk::of(&buffer)).await.is_err() {
                    return;
                }
            }
        });
    }
    let (mut sent, mut client) = split(theirs);
    let server = async {
        ended.cancelled().await;
        drop(session);
    };
    let send = async {
        let _sent = client.write_all(bytes).await;
        let _ended = client.shutdown().await;
    };
    let receive = async {
        let _ended = sent.read_to_end(&mut Vec::new()).await;
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(server, send, receive) })
        .await
        .expect("the connection ends with its client");
}
