//! What a command says, as text and as JSON.

use std::io::Write;

use anyhow::Context as _;
use serde_json::Value;

/// The context of a write to the standard output that fails: the kernel's text alone does not say which file has no room.
pub(super) const STDOUT_FAILED: &str = "cannot write the standard output";

/// A result in both forms.
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Outcome {
    pub(crate) fn write(&self, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
        if json { print(out, &format!("{:#}\n", self.json)) } else { print(out, &self.text) }
    }
}

/// Writes text to the standard output, `out`, and flushes it.
pub(super) fn print(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(STDOUT_FAILED)
}
