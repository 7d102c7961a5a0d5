//! What a command says, as text and as JSON.

use std::io::Write;

use serde_json::Value;

/// A result in both forms.
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Outcome {
    pub(crate) fn write(&self, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
        if json {
            writeln!(out, "{:#}", self.json)?;
        } else {
            write!(out, "{}", self.text)?;
        }
        Ok(out.flush()?)
    }
}
