//! The names of jails: computed from the prefix and an id, and read back from what the kernel lists. A jail's name must not
//! be all digits (jail(8)): the prefix, and a letter before a container's id, see to that.

use host::{ContainerId, PodId, Prefix, SHORT_LENGTH, is_short};

/// What stands between the prefix and the id of a pod made ahead; no hexadecimal digit.
const SPARE: char = 's';
/// What stands between the prefix and the id of a pod that is being destroyed.
const DOOMED: char = 'x';
/// What a container's own part of its jail's name starts with.
const CONTAINER: char = 'c';

/// A pod's jail.
pub(super) fn pod(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{}", id.short())
}

/// The jail of a pod made ahead.
pub(super) fn spare(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{SPARE}{}", id.short())
}

/// A jail that nobody is to see any more: its pod is removed, and the kernel takes its time over the vnet.
pub(super) fn doomed(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{DOOMED}{}", id.short())
}

/// A container's jail, below its pod's.
pub(super) fn container(prefix: &Prefix, pod: &PodId, id: &ContainerId) -> String {
    format!("{}.{CONTAINER}{}", self::pod(prefix, pod), id.short())
}

/// The short form of the id of the container whose jail has a name, whatever the prefix; None: it is no container's.
pub(super) fn container_in(jail: &str) -> Option<&str> {
    let (_, child) = jail.split_once('.')?;
    child.strip_prefix(CONTAINER).filter(|short| is_short(short))
}

/// What a jail with a name is to the server with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owned<'a> {
    /// A pod, by the short form of its id.
    Pod(&'a str),
    /// A spare, likewise.
    Spare(&'a str),
    /// One being destroyed.
    Doomed,
    /// A container: the short forms of its pod's id and of its own.
    Container(&'a str, &'a str),
    /// It carries the prefix, but no id gives this name.
    Unknown,
}

/// Reads a name; None: not this server's.
pub(super) fn parse<'a>(prefix: &Prefix, name: &'a str) -> Option<Owned<'a>> {
    let rest = name.strip_prefix(prefix.as_str())?;
    let owned = match rest.split_once('.') {
        None if is_short(rest) => Owned::Pod(rest),
        None => match (rest.strip_prefix(SPARE), rest.strip_prefix(DOOMED)) {
            (Some(short), _) if is_short(short) => Owned::Spare(short),
            (_, Some(short)) if is_short(short) => Owned::Doomed,
            _ if looks_owned(rest) => Owned::Unknown,
            _ => return None,
        },
        Some((pod, child)) => match child.strip_prefix(CONTAINER) {
            Some(short) if is_short(pod) && is_short(short) => Owned::Container(pod, short),
            // What runs inside a container may have made jails of its own; they go with it.
            _ if is_short(pod) && child.contains('.') => return None,
            _ if is_short(pod) => Owned::Unknown,
            _ => return None,
        },
    };
    Some(owned)
}

/// A jail of somebody else may start with the same two letters: only what is nearly one of ours is reported.
fn looks_owned(rest: &str) -> bool {
    rest.len() >= SHORT_LENGTH && rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b's' || b == b'x')
}

#[cfg(test)]
mod tests {
    use host::{ContainerId, PodId, Prefix};

    use super::{Owned, container, doomed, parse, pod, spare};

    #[test]
    fn names_are_read_back() {
        let (prefix, id, child) = (Prefix::default(), PodId::random(), ContainerId::random());
        assert_eq!(parse(&prefix, &pod(&prefix, &id)), Some(Owned::Pod(id.short())));
        assert_eq!(parse(&prefix, &spare(&prefix, &id)), Some(Owned::Spare(id.short())));
        assert_eq!(parse(&prefix, &doomed(&prefix, &id)), Some(Owned::Doomed));
        let name = container(&prefix, &id, &child);
        assert_eq!(parse(&prefix, &name), Some(Owned::Container(id.short(), child.short())));
    }

    #[test]
    fn other_jails_are_left_alone() {
        let cases = [
            ("www", None),
            ("cbuild", None),
            ("cb0123456789ab.c0123456789ab.inner", None),
            ("cb0123456789ab.web", Some(Owned::Unknown)),
            ("cb0123456789abc", Some(Owned::Unknown)),
            ("cb.c0123456789ab", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(parse(&Prefix::default(), name), wanted, "{name}");
        }
    }
}
