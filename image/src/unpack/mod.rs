//! The unpacking worker: reads a layer from its standard input and unpacks it below its working directory, confined to it.

use std::ffi::OsString;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// What a worker answers on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Outcome {
    /// The layer is unpacked.
    Unpacked {
        /// The digest of its uncompressed bytes.
        diff_id: Digest,
        /// Bytes of its files.
        bytes: u64,
        /// Its entries.
        entries: u64,
    },
    /// It is not, and what is there of it is of no use.
    Refused {
        /// Whose fault it is.
        refusal: Refusal,
        /// What, and which entry.
        reason: String,
    },
}

/// Whose fault it is that a layer is not unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Refusal {
    /// The layer's.
    Invalid,
    /// The disk is full.
    Full,
    /// The system's.
    Failed,
}

/// The worker `unpack`.
pub fn main(args: &[OsString]) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
