//! What runtime, network and image need of the host: ids and kernel names, the place of a pod, external programs, workers,
//! atomic files, state as JSON, paths inside a root, a file lock, waits, the errors of several steps as one, and an error
//! printed with its causes. It knows nothing of pods beyond their names.

mod error;
mod failures;
pub mod fault;
pub mod fs;
mod id;
pub mod json;
pub mod memory;
mod need;
mod place;
mod remove;
pub mod reserve;
pub mod root;
pub mod run;
pub mod wait;
pub mod worker;

pub use error::{Exhausted, chain, is_exhausted, late};
pub use failures::{Failures, Several};
pub use id::{ContainerId, IdError, PodId, Prefix, SHORT_LENGTH, is_short};
pub use need::Need;
pub use place::Place;

/// Major and minor number of a release of FreeBSD: of `15.1-RELEASE-p1` 15 and 1. By them a kernel is older than a userland or not.
#[must_use]
pub fn release_numbers(release: &str) -> Option<(u32, u32)> {
    let (major, minor) = release.split('-').next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// An architecture's name in the OCI image specification (GOARCH), given any of its names: `x86_64` is `amd64`.
#[must_use]
pub fn oci_architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "x86" => "386",
        other => other,
    }
}
