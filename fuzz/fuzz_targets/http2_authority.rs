//! The filter of gRPC connections: it passes whatever arrives, the same whole and in pieces, and what passed once passes unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../cri/src/server/authority.rs"]
mod authority;

use authority::Filter;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let mut whole = bytes.to_vec();
    Filter::default().pass(&mut whole);
    let mut pieces = bytes.to_vec();
    let mut filter = Filter::default();
    pieces.chunks_mut(usize::from(*size).max(1)).for_each(|piece| filter.pass(piece));
    assert_eq!(whole, pieces);
    Filter::default().pass(&mut pieces);
    assert_eq!(whole, pieces);
});
