//! A pod's wishes for the roots of its containers, by annotation: what it is made from, a limit on what a container writes, and what
//! becomes of its snapshots.
//! They count with and without a `linux` section, which has no place for them.

use std::collections::BTreeMap;

use super::annotations::{bytes, get};
use super::refusal::{Refusal, invalid};

/// What a container may write into its root (ZFS): bytes, or with Ki, Mi or Gi; with `.NAME` for one container.
pub(crate) const REFQUOTA: &str = "storage.cellblock/refquota";
/// The name of an imported root that containers get in place of their images' files (ZFS); with `.NAME` for one container.
pub(crate) const ROOT: &str = "storage.cellblock/root";
/// What becomes of the snapshots of a container that is removed: `remove` or `keep` (ZFS).
pub(crate) const SNAPSHOTS: &str = "storage.cellblock/snapshots";

/// The first annotation that only datasets can serve.
pub(crate) fn of_datasets(annotations: &BTreeMap<String, String>) -> Option<&str> {
    annotations.keys().find(|key| key.starts_with(REFQUOTA) || key.starts_with(ROOT)).map(String::as_str)
}

/// The annotation and the name of the imported root of a container of this name.
pub(crate) fn imported_root<'a>(
    name: &str,
    annotations: &'a BTreeMap<String, String>,
) -> Option<(&'a String, &'a String)> {
    get(annotations, name, ROOT)
}

/// Refuses a value of [`ROOT`] that no imported root can have.
pub(super) fn check_root(key: &str, value: &str) -> Result<(), Refusal> {
    image::rootfs::check_import_name(value).map_err(|error| match error {
        image::Error::Invalid { reason, .. } => invalid(format!("annotations[{key}]"), reason),
        other => invalid(format!("annotations[{key}]"), other.to_string()),
    })
}

/// What a container of this name may write into its root, in bytes; `default` is the configuration's.
pub(crate) fn refquota(
    name: &str,
    annotations: &BTreeMap<String, String>,
    default: Option<u64>,
) -> Result<Option<u64>, Refusal> {
    match get(annotations, name, REFQUOTA) {
        Some((key, text)) => bytes(key, text).map(|bytes| u64::try_from(bytes).ok()),
        None => Ok(default),
    }
}

/// Whether the snapshots of removed containers are kept.
pub(crate) fn keeps_snapshots(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(SNAPSHOTS).is_some_and(|text| keep(text).unwrap_or(false))
}

/// Whether a value of [`SNAPSHOTS`] keeps them.
pub(super) fn keep(text: &str) -> Result<bool, Refusal> {
    match text {
        "remove" => Ok(false),
        "keep" => Ok(true),
        _ => {
            let reason = format!("{text:?} is neither \"remove\" nor \"keep\"");
            Err(invalid(format!("annotations[{SNAPSHOTS}]"), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::annotations::check;
    use super::{imported_root, keeps_snapshots, of_datasets, refquota};

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_containers_limit_comes_before_its_pods_and_that_before_the_nodes() {
        let all = annotations(&[
            ("storage.cellblock/refquota", "1Gi"),
            ("storage.cellblock/refquota.db", "64Mi"),
            ("storage.cellblock/snapshots", "keep"),
            ("storage.cellblock/root.db", "db-2026"),
        ]);
        check(&all, true).unwrap();
        assert_eq!(refquota("web", &all, Some(5)), Ok(Some(1 << 30)));
        assert_eq!(refquota("db", &all, Some(5)), Ok(Some(64 << 20)));
        assert!(keeps_snapshots(&all) && of_datasets(&all) == Some("storage.cellblock/refquota"));
        assert_eq!(imported_root("db", &all).unwrap().1, "db-2026");
        assert_eq!(imported_root("web", &all), None);
        let none = annotations(&[("note", "kept")]);
        assert_eq!((refquota("web", &none, Some(5)), refquota("web", &none, None)), (Ok(Some(5)), Ok(None)));
        assert!(!keeps_snapshots(&none) && of_datasets(&none).is_none());
        assert!(!keeps_snapshots(&annotations(&[("storage.cellblock/snapshots", "remove")])));
    }

    #[test]
    fn a_bad_value_is_refused_with_its_annotation() {
        for (key, value, reason) in [
            ("storage.cellblock/refquota", "64MB", "\"64MB\" is no number of bytes"),
            ("storage.cellblock/refquota.web", "0", "\"0\" is no number of bytes"),
            ("storage.cellblock/refquota.", "1", "is none of "),
            ("storage.cellblock/refquotas", "1", "is none of "),
            ("storage.cellblock/root", "a/b", "\"a/b\" is not 1 to 64 letters"),
            ("storage.cellblock/root.web", "", "\"\" is not 1 to 64 letters"),
            ("storage.cellblock/snapshots", "yes", "\"yes\" is neither \"remove\" nor \"keep\""),
            ("storage.cellblock/snapshots.web", "keep", "is none of "),
        ] {
            let refusal = check(&annotations(&[(key, value)]), true).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("annotations[{key}]: {reason}")), "{refusal}");
        }
    }
}
