//! The names of jails, computed from the prefix and an id, and parsed again. A jail's name must not be all digits (jail(8)):
//! the prefix, and a letter before a container's id, make sure of that.

use host::{ContainerId, PodId, Prefix, SHORT_LENGTH, is_short};

/// The character between the prefix and the id of a spare; no hexadecimal digit.
const SPARE: char = 's';
/// The character between the prefix and the id of a removed pod.
const REMOVED: char = 'x';
/// The first character of a container's part of its jail's name.
const CONTAINER: char = 'c';

/// A pod's jail.
pub(super) fn pod(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{}", id.short())
}

/// The jail of a spare.
pub(super) fn spare(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{SPARE}{}", id.short())
}

/// The jail of a removed pod, whose vnet the kernel takes long to destroy.
pub(super) fn removed(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{REMOVED}{}", id.short())
}

/// A container's jail, below its pod's.
pub(super) fn container(prefix: &Prefix, pod: &PodId, id: &ContainerId) -> String {
    format!("{}.{CONTAINER}{}", self::pod(prefix, pod), id.short())
}

/// The short id of the container whose jail has this name, with any prefix; None: it is no container's.
pub(super) fn container_in(jail: &str) -> Option<&str> {
    let (_, child) = jail.split_once('.')?;
    child.strip_prefix(CONTAINER).filter(|short| is_short(short))
}

/// The meaning of a jail's name to the server with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owned<'a> {
    /// A pod, by its short id.
    Pod(&'a str),
    /// A spare, by its short id.
    Spare(&'a str),
    /// A removed pod.
    Removed,
    /// A container: the short ids of its pod and its own.
    Container(&'a str, &'a str),
    /// It has the prefix, but no id.
    Unknown,
}

/// Parses a name; None: it is not this server's.
pub(super) fn parse<'a>(prefix: &Prefix, name: &'a str) -> Option<Owned<'a>> {
    let rest = name.strip_prefix(prefix.as_str())?;
    let owned = match rest.split_once('.') {
        None if is_short(rest) => Owned::Pod(rest),
        None => match (rest.strip_prefix(SPARE), rest.strip_prefix(REMOVED)) {
            (Some(short), _) if is_short(short) => Owned::Spare(short),
            (_, Some(short)) if is_short(short) => Owned::Removed,
            _ if looks_owned(rest) => Owned::Unknown,
            _ => return None,
        },
        Some((pod, child)) => match child.strip_prefix(CONTAINER) {
            Some(short) if is_short(pod) && is_short(short) => Owned::Container(pod, short),
            // Containers may have made jails, which end with them.
            _ if is_short(pod) && child.contains('.') => return None,
            _ if is_short(pod) => Owned::Unknown,
            _ => return None,
        },
    };
    Some(owned)
}

/// Another jail may start with the same two letters: only names that nearly are this server's are reported.
fn looks_owned(rest: &str) -> bool {
    rest.len() >= SHORT_LENGTH && rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b's' || b == b'x')
}

#[cfg(test)]
mod tests {
    use host::{ContainerId, PodId, Prefix};

    use super::{Owned, container, parse, pod, removed, spare};

    #[test]
    fn names_are_read_back() {
        let (prefix, id, child) = (Prefix::default(), PodId::random(), ContainerId::random());
        assert_eq!(parse(&prefix, &pod(&prefix, &id)), Some(Owned::Pod(id.short())));
        assert_eq!(parse(&prefix, &spare(&prefix, &id)), Some(Owned::Spare(id.short())));
        assert_eq!(parse(&prefix, &removed(&prefix, &id)), Some(Owned::Removed));
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
