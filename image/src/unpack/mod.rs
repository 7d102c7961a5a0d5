//! The unpacking worker. A layer is hostile until it is unpacked, so this is a process of its own that has its working
//! directory, a byte stream on its standard input, a pipe for its answer, and as few rights as the system can give: nothing
//! else. It decompresses, hashes and unpacks, and says what it saw; whether that is what the image announced, the server checks.

mod apply;
mod entry;
mod pax;
mod place;
mod stream;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use libc::rlim_t;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use crate::{Digest, sys};

/// Bytes of address space: a zstd window of 128 MiB, a set of the layer's paths, and room to spare.
const MEMORY_MAX: rlim_t = 1 << 30;
/// Open files: the deepest path that is removed holds one for each of its directories.
const FILES_MAX: rlim_t = 1024;
/// Seconds of a processor: the largest layer takes a few minutes.
const CPU_MAX: rlim_t = 3600;
/// Seconds in all: a disk that does not answer holds up a pull no longer than this.
const TIME_MAX: u32 = 7200;
/// Exit code of a worker whose layer is not unpacked; the reason is in its answer.
const REFUSED: u8 = 1;

/// What a worker answers on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Outcome {
    /// The layer is unpacked.
    Unpacked(Unpacked),
    /// It is not, and what is there of it is of no use.
    Refused(Trouble),
}

/// What a layer turned out to be.
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
pub struct Trouble {
    /// Whose fault it is.
    pub refusal: Refusal,
    /// What, and which entry.
    pub reason: String,
}

/// Whose fault it is that a layer is not unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The layer's.
    Invalid,
    /// The disk is full.
    Full,
    /// The system's.
    Failed,
}

impl Trouble {
    fn invalid(reason: impl Into<String>) -> Self {
        Self { refusal: Refusal::Invalid, reason: reason.into() }
    }

    /// Something that the system refused to write.
    fn system(what: impl std::fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
        Self { refusal: if full { Refusal::Full } else { Refusal::Failed }, reason: format!("{what}: {error}") }
    }
}

/// The worker `unpack`: no arguments; the layer on the standard input, as a file or a pipe; the working directory is unpacked
/// into. Answers with one line of JSON.
pub fn main(_args: &[OsString]) -> ExitCode {
    let outcome = match run() {
        Ok(unpacked) => Outcome::Unpacked(unpacked),
        Err(trouble) => Outcome::Refused(trouble),
    };
    let answer = serde_json::to_vec(&outcome).expect("an outcome has string keys only");
    match io::stdout().write_all(&answer) {
        Ok(()) if matches!(outcome, Outcome::Unpacked(_)) => ExitCode::SUCCESS,
        _ => ExitCode::from(REFUSED),
    }
}

fn run() -> Result<Unpacked, Trouble> {
    let confined = |error: io::Error| Trouble::system("cannot confine the worker", error);
    sys::close_from(3).map_err(confined)?;
    limit().map_err(|error| confined(error.into()))?;
    sys::limit_memory(MEMORY_MAX).map_err(confined)?;
    let directory = sys::confine().map_err(confined)?;
    let input: File = io::stdin().as_fd().try_clone_to_owned().map_err(confined)?.into();
    let compressed = input.metadata().map_or(0, |metadata| metadata.len());
    unpack(input, compressed, &directory)
}

fn limit() -> nix::Result<()> {
    umask(Mode::empty());
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX)?;
    setrlimit(Resource::RLIMIT_CPU, CPU_MAX, CPU_MAX)?;
    nix::unistd::alarm::set(TIME_MAX);
    Ok(())
}

/// Unpacks a layer (tar, gzip or zstd) of so many compressed bytes (0: unknown) into an open directory. Not confined: for the
/// worker, which is, and for tests.
///
/// # Errors
/// What is wrong with the layer, or with the system; the directory then holds a part of it.
pub fn unpack(input: impl Read, compressed: u64, directory: &OwnedFd) -> Result<Unpacked, Trouble> {
    let mut stream = stream::Stream::open(input, stream::limit(compressed))?;
    let mut entries = entry::Entries::new(&mut stream);
    let mut layer = apply::Layer::new(directory);
    while let Some(entry) = entries.next()? {
        layer.apply(&entry, &mut entries)?;
    }
    let count = layer.finish()?;
    let (diff_id, bytes) = stream.finish()?;
    Ok(Unpacked { diff_id, bytes, entries: count })
}
