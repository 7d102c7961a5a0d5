//! Why a request cannot be translated, and the checks of single values that many fields share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::Error;

/// The longest name, uid or namespace, in bytes: four times the limit of Kubernetes. They make the reserved name.
const NAME_LENGTH: usize = 1024;
/// The limit on the labels or annotations of one object, in bytes: four times Kubernetes' 256 KiB. They are kept in memory and
/// sent in every list.
const LABELS_SIZE: usize = 1 << 20;

/// Checks a part of an object's name.
pub(super) fn name(field: &str, value: &str) -> Result<(), Refusal> {
    match value.len() {
        0 => Err(invalid(field, "empty")),
        length if length > NAME_LENGTH => Err(invalid(field, format!("has {length} bytes, at most {NAME_LENGTH}"))),
        _ => Ok(()),
    }
}

/// Checks the size of labels or annotations.
pub(super) fn labels(field: &str, map: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > LABELS_SIZE {
        return Err(invalid(field, format!("have {size} bytes together, at most {LABELS_SIZE}")));
    }
    Ok(())
}

/// A field with an invalid value, or one that Cellblock does not support. Both are INVALID_ARGUMENT, since UNIMPLEMENTED would
/// mean the whole RPC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Refusal {
    /// The field, as CRI names it: `linux.security_context.run_as_user`.
    pub(crate) field: String,
    /// The value and its fault.
    pub(crate) reason: String,
}

pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    Refusal { field: field.into(), reason: reason.into() }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let Refusal { field, reason } = refusal;
        Self::Invalid { field, reason }
    }
}

/// Refuses a missing field.
pub(super) fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, Refusal> {
    value.ok_or_else(|| invalid(field, "missing"))
}

/// Refuses a path that is relative or has a NUL byte.
pub(super) fn absolute(field: &str, text: &str) -> Result<PathBuf, Refusal> {
    if text.starts_with('/') && !text.contains('\0') {
        return Ok(text.into());
    }
    Err(invalid(field, format!("{text:?} is not an absolute path")))
}

/// Refuses a number that does not fit.
pub(super) fn number<N: TryFrom<i64>>(field: &str, value: i64) -> Result<N, Refusal> {
    N::try_from(value).map_err(|_| invalid(field, format!("{value} is out of range")))
}
