//! SPDY frames and header blocks, one after the other, without a connection: what decodes does so within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streaming::protocol::Inflater;
use streaming::protocol::spdy_frame::{self as frame, Frame, FrameHeader, HEADER_LENGTH};

fuzz_target!(|bytes: &[u8]| {
    let mut inflater = Inflater::default();
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LENGTH>() {
        let Ok(head) = frame::parse_header(head) else { return };
        let (FrameHeader::Data { length, .. } | FrameHeader::Control { length, .. }) = head;
        let Some((payload, after)) = after.split_at_checked(length) else { return };
        rest = after;
        let FrameHeader::Control { kind, flags, .. } = head else { continue };
        let Ok(decoded) = frame::decode(kind, flags, payload) else { continue };
        if let Frame::SynStream { stream, block, .. } | Frame::Headers { stream, block, .. } = decoded {
            let _headers = inflater.read(stream, block);
        }
    }
});
