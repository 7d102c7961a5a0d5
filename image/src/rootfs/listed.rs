//! Parses the list of zfs(8), and decides about a dataset that cannot be destroyed. Pure.

use std::collections::{HashMap, HashSet};

use host::ContainerId;
use nix::errno::Errno;

use super::{ChainId, Snapshot};

/// The snapshot that completes a chain.
pub(super) const LAYER: &str = "layer";
/// The parent of datasets that snapshots, clones, holds or mounts of an administrator keep.
pub(super) const TRASH: &str = "trash";

/// The datasets below the parent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// All chains, complete or begun.
    pub(super) chains: Vec<ChainId>,
    whole: HashSet<ChainId>,
    pub(super) containers: Vec<ContainerId>,
    /// The full names of datasets in the trash.
    pub(super) aside: Vec<String>,
    /// `used` of each, in bytes.
    pub(super) sizes: HashMap<String, u64>,
}

impl Listed {
    /// Whether a chain is complete.
    pub(super) fn has(&self, chain: &ChainId) -> bool {
        self.whole.contains(chain)
    }
}

/// Parses names and `used` below `base`. Ignores names that are not ours.
pub(super) fn parse(base: &str, text: &str) -> Listed {
    let mut listed = Listed::default();
    for line in text.lines() {
        let Some((name, used)) = line.split_once('\t') else { continue };
        if let Ok(bytes) = used.trim().parse() {
            listed.sizes.insert(name.to_owned(), bytes);
        }
        let Some(rest) = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) else { continue };
        match (rest.split_once('/'), rest.split_once('@')) {
            (Some(("chains", chain)), None) => listed.chains.extend(ChainId::from_hex(chain)),
            (Some(("chains", chain)), Some((_, LAYER))) => {
                listed.whole.extend(chain.split_once('@').and_then(|(chain, _)| ChainId::from_hex(chain)));
            }
            (Some(("containers", id)), None) => listed.containers.extend(id.parse().ok()),
            (Some((TRASH, own)), None) if !own.contains('/') => listed.aside.push(name.to_owned()),
            _ => {}
        }
    }
    listed
}

/// Parses name, `used`, `referenced` and `creation` of snapshots.
pub(super) fn snapshots(text: &str) -> Vec<Snapshot> {
    let snapshot = |line: &str| {
        let mut columns = line.split('\t');
        let name = columns.next()?.split_once('@')?.1.to_owned();
        let mut number = || columns.next().and_then(|column| column.trim().parse().ok()).unwrap_or_default();
        Some(Snapshot { name, used: number(), referenced: number(), created: number() })
    };
    text.lines().filter_map(snapshot).collect()
}

/// The next step for a dataset that cannot be destroyed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Retry for a while: a process that was just killed may still hold it.
    Wait,
    /// Rename it into the trash, and retry later: an administrator keeps it.
    SetAside,
    /// Report the error.
    Fail,
}

/// Decides by the errno of zfs_destroy; `may_pass`: nothing known keeps the dataset.
pub(super) fn next(error: Option<Errno>, may_pass: bool) -> Next {
    match error {
        Some(Errno::EBUSY) if may_pass => Next::Wait,
        Some(Errno::EBUSY | Errno::EEXIST) => Next::SetAside,
        _ => Next::Fail,
    }
}

/// A name in the trash: the original name and a unique suffix.
pub(super) fn aside(base: &str, dataset: &str, unique: &str) -> String {
    let own = dataset.strip_prefix(base).unwrap_or(dataset).trim_start_matches('/').replace('/', "-");
    format!("{base}/{TRASH}/{own}-{unique}")
}

/// Whether a dataset in the trash was a container's or was imported: its snapshots are ours.
pub(super) fn has_own_snapshots(base: &str, aside: &str) -> bool {
    let own = aside.strip_prefix(base).and_then(|rest| rest.strip_prefix(&format!("/{TRASH}/")));
    own.is_some_and(|own| own.starts_with("containers-") || own.starts_with("imported-"))
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{ChainId, Next, Snapshot, aside, has_own_snapshots, next, parse, snapshots};
    use crate::Digest;

    #[test]
    fn snapshots_are_read_with_their_sizes() {
        let text = "tank/c/containers/1@a\t512\t2048\t1780000000\ntank/c/containers/1@b:c\t0\t-\t1\nno snapshot\n";
        let wanted = [
            Snapshot { name: "a".to_owned(), used: 512, referenced: 2048, created: 1_780_000_000 },
            Snapshot { name: "b:c".to_owned(), used: 0, referenced: 0, created: 1 },
        ];
        assert_eq!(snapshots(text), wanted);
    }

    #[test]
    fn a_list_is_read() {
        let (whole, begun) = (Digest::of(b"a"), Digest::of(b"b"));
        let id = "0123456789abcdef".repeat(4);
        let text = format!(
            "tank/c\t100\ntank/c@daily\t0\ntank/c/chains\t60\ntank/c/chains@daily\t0\ntank/c/chains/{0}\t40\n\
             tank/c/chains/{0}@layer\t0\ntank/c/chains/{0}@daily\t0\ntank/c/chains/{1}\t20\ntank/c/chains/{1}@daily\t20\n\
             tank/c/containers\t30\ntank/c/containers/{id}\t30\ntank/c/containers/{id}@mine\t1\ntank/c/other\t1\n\
             tank/c/chains/x\t1\ntank/c/trash\t1\ntank/c/trash/chains-x-1\t1\ntank/c/trash/chains-x-1@daily\t1\n\
             tank/c/trash/chains-x-1/child\t1\ntank/cc/trash/y\t1\n",
            whole.hex(),
            begun.hex()
        );
        let listed = parse("tank/c", &text);
        assert_eq!(listed.chains.len(), 2);
        assert!(listed.has(&ChainId(whole.to_string())) && !listed.has(&ChainId(begun.to_string())));
        assert_eq!(listed.containers[0].as_str(), id);
        assert_eq!(listed.sizes[&format!("tank/c/containers/{id}")], 30);
        assert_eq!(listed.aside, ["tank/c/trash/chains-x-1"]);
    }

    #[test]
    fn what_others_keep_is_set_aside_and_what_may_pass_is_waited_for_first() {
        let table = [
            (Some(Errno::EBUSY), true, Next::Wait),
            (Some(Errno::EBUSY), false, Next::SetAside),
            (Some(Errno::EEXIST), true, Next::SetAside),
            (Some(Errno::EEXIST), false, Next::SetAside),
            (Some(Errno::EPERM), true, Next::Fail),
            (None, false, Next::Fail),
        ];
        for (error, may_pass, expected) in table {
            assert_eq!(next(error, may_pass), expected, "{error:?}, {may_pass}");
        }
    }

    #[test]
    fn what_is_set_aside_says_what_it_was() {
        let chain = aside("tank/c", "tank/c/chains/0123", "ab");
        let container = aside("tank/c", "tank/c/containers/0123", "ab");
        assert_eq!(
            (chain.as_str(), container.as_str()),
            ("tank/c/trash/chains-0123-ab", "tank/c/trash/containers-0123-ab")
        );
        let imported = aside("tank/c", "tank/c/imported/web", "ab");
        let own = |name: &str| has_own_snapshots("tank/c", name);
        assert!(!own(&chain) && own(&container) && own(&imported) && !own("tank/c/imported/web"));
    }
}
