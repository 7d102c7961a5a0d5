//! Records into CRI's answers. Everything is computed from memory; nothing here asks the kernel or the disk.

pub(crate) mod container;
pub(crate) mod info;
pub(crate) mod pod;

use std::collections::BTreeMap;

/// Whether the labels are all there, each with its value: CRI's label selector.
#[must_use]
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
