//! A layer, in any compression: whatever it says, the unpacker neither panics nor leaves its directory.
#![no_main]

use std::fs::File;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let root = scratch.path().join("root");
    std::fs::create_dir(&root).expect("a directory can be made");
    let directory = File::open(&root).expect("a directory can be opened").into();
    let _outcome = image::unpack::unpack(data, data.len() as u64, directory, None);
    let beside = std::fs::read_dir(scratch.path()).expect("a directory can be read").count();
    assert_eq!(beside, 1, "something was made outside of the root");
});
