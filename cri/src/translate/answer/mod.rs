//! Records into CRI's answers, from memory: nothing here asks the kernel or the disk.

pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod pod;

use std::collections::BTreeMap;

/// CRI's label selector: every label has its value.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
