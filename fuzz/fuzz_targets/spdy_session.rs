//! A whole SPDY connection whose streams send back what they get: whatever arrives, it ends when the client does, and all
//! that it sent until then is frames.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use streaming::protocol::Chunk;
use streaming::protocol::spdy_frame::{self as frame, FrameHeader, HEADER_LENGTH};
use streaming::protocol::{Limits, SpdySession as Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(connection(bytes));
});

async fn connection(bytes: &[u8]) {
    let (ours, theirs) = duplex(1 << 16);
    let (read, write) = split(ours);
    let limits = Limits { streams: 4, idle: Duration::from_secs(60) };
    let mut session = Session::start(Box::new(read), Box::new(write), limits);
    let (mut sent, mut client) = split(theirs);
    let server = async {
        while let Some(incoming) = session.next_stream().await {
            let Ok(mut stream) = incoming.accept().await else { break };
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while let Ok(1..) = stream.input.fill(&mut buffer).await {
                    let mut chunk = Chunk::of(&buffer);
                    if stream.output.send(&mut chunk).await.is_err() {
                        return;
                    }
                }
                let _ended = stream.output.finish().await;
            });
        }
        drop(session);
    };
    let send = async {
        let _sent = client.write_all(bytes).await;
        let _ended = client.shutdown().await;
    };
    let receive = async {
        let mut all = Vec::new();
        let _ended = sent.read_to_end(&mut all).await;
        all
    };
    let ((), (), all) = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(server, send, receive) })
        .await
        .expect("the connection ends with its client");
    check(&all);
}

/// All of it is frames; only the last one may be cut off.
fn check(mut rest: &[u8]) {
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LENGTH>() {
        let head = frame::parse_header(head).expect("the server sends frames");
        let (FrameHeader::Data { length, .. } | FrameHeader::Control { length, .. }) = head;
        let Some((payload, after)) = after.split_at_checked(length) else { return };
        if let FrameHeader::Control { kind, flags, .. } = head {
            frame::decode(kind, flags, payload).expect("the server sends frames that are in order");
        }
        rest = after;
    }
}
