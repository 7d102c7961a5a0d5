//! hosts.toml: refused, or hosts that can be asked, the registry itself the last.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(image::ParsedHosts { endpoints, .. }) = image::parse_hosts(text, "registry.example", Path::new("/certs.d")) {
        assert!(!endpoints.is_empty());
        for endpoint in endpoints {
            assert!(matches!(endpoint.base.scheme(), "http" | "https") && !endpoint.authority().is_empty());
        }
    }
});
