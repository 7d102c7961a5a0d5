//! The unpacking worker. Layers are hostile, so a separate process with as few rights as possible unpacks them: it has its working
//! directory, a read-only view of what is below if the directory does not show that, a byte stream on its standard input, and a pipe
//! for its result. It decompresses, hashes and unpacks, side by side; the server compares the digest with the image's configuration.

mod apply;
mod copy_up;
mod entry;
mod follow;
mod pax;
mod place;
mod stream;
#[cfg(test)]
mod tests;
mod walk;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use libc::rlim_t;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use crate::{Algorithm, Digest, sys};

pub(crate) use entry::{Entries, Kind};
pub(crate) use stream::unreadable;

use place::Place;

/// Bytes of address space: a zstd window of 128 MiB, the set of the layer's paths, and a reserve.
const MEMORY_MAX: rlim_t = 1 << 30;
/// Open files: hiding the deepest path opens each of its directories twice, in the layer and below.
const FILES_MAX: rlim_t = 4096;
/// Seconds of CPU time: the largest layer takes a few minutes.
const CPU_MAX: rlim_t = 3600;
/// Seconds of real time, from the last bytes that arrived on: the longest that an unresponsive disk can block a pull.
const TIME_MAX: u32 = 7200;
/// The exit code if the layer was not unpacked; the result has the reason.
const REFUSED: u8 = 1;

/// The result of a worker, on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Outcome {
    /// The layer is unpacked.
    Unpacked(Unpacked),
    /// The layer is not unpacked; the directory holds a useless part of it.
    Refused(Failure),
}

/// The properties of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// The digest of its uncompressed bytes.
    pub diff_id: Digest,
    /// Its uncompressed bytes.
    pub bytes: u64,
    /// Its entries.
    pub entries: u64,
}

/// Why a layer is not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// Its kind.
    pub refusal: Refusal,
    /// The text, with the entry.
    pub reason: String,
}

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The layer is invalid.
    Invalid,
    /// The disk is full.
    Full,
    /// The system failed.
    Failed,
}

impl Failure {
    fn invalid(reason: impl Into<String>) -> Self {
        Self { refusal: Refusal::Invalid, reason: reason.into() }
    }

    /// An error of a system call.
    fn system(what: impl std::fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
        Self { refusal: if full { Refusal::Full } else { Refusal::Failed }, reason: format!("{what}: {error}") }
    }
}

/// The worker's second argument: its standard input is a file that still grows, and its standard output a socket that tells how
/// large it will be and how much is there.
pub(crate) const FOLLOW: &str = "follow";

/// Before the worker's argument that names the directory of what is below: its working directory does not show it.
pub(crate) const BELOW: &str = "below";

/// The worker `unpack`: its argument is the algorithm of the digest (none: SHA-256). It reads the layer from its standard input (a
/// file or a pipe; see [`FOLLOW`]), unpacks it into its working directory (see also [`BELOW`]), and prints one line of JSON.
pub fn main(args: &[OsString]) -> ExitCode {
    let algorithm = args.first().and_then(|name| Algorithm::of_name(name.to_str()?));
    let follows = args.iter().any(|word| word == FOLLOW);
    let below = args.iter().skip_while(|word| *word != BELOW).nth(1);
    let outcome = match run(algorithm.unwrap_or(Algorithm::Sha256), follows, below.map(Path::new)) {
        Ok(unpacked) => Outcome::Unpacked(unpacked),
        Err(trouble) => Outcome::Refused(trouble),
    };
    let answer = serde_json::to_vec(&outcome).expect("an outcome has string keys only");
    match io::stdout().write_all(&answer) {
        Ok(()) if matches!(outcome, Outcome::Unpacked(_)) => ExitCode::SUCCESS,
        _ => ExitCode::from(REFUSED),
    }
}

fn run(algorithm: Algorithm, follows: bool, below: Option<&Path>) -> Result<Unpacked, Failure> {
    let confined = |error: io::Error| Failure::system("cannot confine the worker", error);
    sys::close_from(3).map_err(confined)?;
    limit().map_err(|error| confined(error.into()))?;
    sys::limit_memory(MEMORY_MAX).map_err(confined)?;
    let below = below.map(sys::open_detached).transpose().map_err(confined)?;
    let root = Place::new(sys::confine().map_err(confined)?, below);
    let input: File = io::stdin().as_fd().try_clone_to_owned().map_err(confined)?.into();
    if follows {
        let socket = io::stdout().as_fd().try_clone_to_owned().map_err(confined)?;
        let input = follow::Follow::open(input, socket).map_err(|error| stream::unreadable(&error))?;
        let compressed = input.total();
        return unpack_as(algorithm, input, compressed, &root);
    }
    let compressed = input.metadata().map_or(0, |metadata| metadata.len());
    unpack_as(algorithm, input, compressed, &root)
}

fn limit() -> nix::Result<()> {
    umask(Mode::empty());
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX)?;
    setrlimit(Resource::RLIMIT_CPU, CPU_MAX, CPU_MAX)?;
    nix::unistd::alarm::set(TIME_MAX);
    Ok(())
}

/// Unpacks a layer (tar, gzip or zstd) of `compressed` bytes (0: unknown) into an open directory. `below` is what the layers below
/// have, if the directory does not show it (see [`crate::rootfs::Unpacking`]). Does not confine itself: for tests.
///
/// # Errors
/// The layer is invalid, or the system failed; the directory then holds a part of the layer.
pub fn unpack(
    input: impl Read + Send,
    compressed: u64,
    directory: OwnedFd,
    below: Option<OwnedFd>,
) -> Result<Unpacked, Failure> {
    unpack_as(Algorithm::Sha256, input, compressed, &Place::new(directory, below))
}

fn unpack_as(
    algorithm: Algorithm,
    input: impl Read + Send,
    compressed: u64,
    root: &Place,
) -> Result<Unpacked, Failure> {
    let source = stream::open(input)?;
    std::thread::scope(|scope| {
        let mut stream = stream::Stream::start(scope, source, stream::limit(compressed), algorithm);
        let mut entries = entry::Entries::new(&mut stream);
        let mut layer = apply::Layer::new(root);
        while let Some(entry) = entries.next()? {
            layer.apply(&entry, &mut entries)?;
        }
        let count = layer.finish()?;
        let (diff_id, bytes) = stream.finish()?;
        Ok(Unpacked { diff_id, bytes, entries: count })
    })
}
