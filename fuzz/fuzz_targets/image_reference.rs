//! References: refused, or complete: then they are read as what they are written as.
#![no_main]

use image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let whole = reference.to_string();
        assert_eq!(Reference::parse(&whole).expect("a complete reference is one"), reference);
        assert!(!reference.path().split('/').any(|part| part.is_empty() || part == "." || part == ".."));
        assert!(!reference.domain().contains('/'));
    }
});
