//! Manifests, indexes and configurations: refused or within their limits.
#![no_main]

use image::{Document, parse_config, parse_manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse_manifest(data) {
        Ok(Document::Manifest { layers, .. }) => assert!(layers.len() <= 256),
        Ok(Document::Index(entries)) => assert!(entries.len() <= 1024),
        Err(_) => {}
    }
    if let Ok(config) = parse_config(data) {
        assert!(config.diff_ids.iter().all(|id| id.hex().len() == 64));
    }
});
