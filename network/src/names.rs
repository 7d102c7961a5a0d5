//! Kernel names and MAC addresses, computed from the prefix and the pod's id.

use host::{PodId, Prefix};

/// Digits of an id in a kernel name, and in full.
const SHORT: usize = 12;
const WHOLE: usize = 64;
/// The suffix of the host's end: outer.
const HOST_END: char = 'o';
/// First bytes of MACs: locally administered, unicast. The ends of a pair differ.
const POD_MAC: u8 = 0x02;
const HOST_MAC: u8 = 0x06;
const BRIDGE_MAC: u8 = 0x0a;

/// Returns the name of the bridge of all pods.
pub(crate) fn bridge(prefix: &Prefix) -> String {
    format!("{prefix}br0")
}

/// Returns the interface group of the host's ends of all pods' interfaces: FreeBSD names it (not ending in a digit,
/// ifconfig(8)), and Linux numbers it.
pub(crate) fn pod_group(prefix: &Prefix) -> String {
    format!("{prefix}pods")
}

pub(crate) fn pod_group_number(prefix: &Prefix) -> u32 {
    let letters = prefix.as_str().as_bytes();
    u32::from_be_bytes([b'c', b'b', letters[0], letters[1]])
}

/// Returns the name of a pod in the kernel: that of its jail, which the runtime makes, and the beginning of its interface's.
pub(crate) fn pod(prefix: &Prefix, id: &PodId) -> String {
    format!("{prefix}{}", id.short())
}

/// Returns the name of the host's end of a pod's interface.
pub(crate) fn host_end(prefix: &Prefix, id: &PodId) -> String {
    format!("{}{HOST_END}", pod(prefix, id))
}

pub(crate) fn pod_mac(id: &PodId) -> [u8; 6] {
    mac(POD_MAC, id)
}

pub(crate) fn host_mac(id: &PodId) -> [u8; 6] {
    mac(HOST_MAC, id)
}

/// The bridge has a fixed MAC; otherwise it would change as pods come and go.
pub(crate) fn bridge_mac(prefix: &Prefix) -> [u8; 6] {
    let letters = prefix.as_str().as_bytes();
    [BRIDGE_MAC, b'c', b'b', letters[0], letters[1], 1]
}

fn mac(first: u8, id: &PodId) -> [u8; 6] {
    let mut mac = [first; 6];
    for (index, byte) in mac[1..].iter_mut().enumerate() {
        *byte = u8::from_str_radix(&id.as_str()[2 * index..2 * index + 2], 16).expect("an id is hexadecimal");
    }
    mac
}

/// Whether the text is a short id.
pub(crate) fn is_short(text: &str) -> bool {
    text.len() == SHORT && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Adds the pods that own these interfaces, each given as its name and the alias with the whole id.
pub(crate) fn add_from_interfaces<'a>(
    ids: &mut Vec<PodId>,
    prefix: &Prefix,
    interfaces: impl Iterator<Item = (&'a str, &'a str)>,
) {
    for (name, note) in interfaces {
        let short = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_suffix(HOST_END));
        let Some(short) = short else { continue };
        match note.parse().ok().filter(|id: &PodId| id.short() == short) {
            Some(id) => ids.push(id),
            None => add_short(ids, short),
        }
    }
    ids.sort();
    ids.dedup();
}

/// Adds the pod with this short id. If no source has the whole id (the server died before setting the alias), pads it
/// with zeros: the names computed from it are the same, so the objects can be removed.
pub(crate) fn add_short(ids: &mut Vec<PodId>, short: &str) {
    if is_short(short) && !ids.iter().any(|id| id.short() == short) {
        ids.extend(format!("{short:0<WHOLE$}").parse::<PodId>().ok());
    }
}

#[cfg(test)]
mod tests {
    use host::{PodId, Prefix};

    use super::{add_from_interfaces, host_end, host_mac, pod_mac};

    #[test]
    fn names_fit_and_ends_differ() {
        let id: PodId = "0123456789abcdef".repeat(4).parse().unwrap();
        assert_eq!(host_end(&Prefix::default(), &id), "cb0123456789abo");
        assert_eq!(pod_mac(&id), [0x02, 0x01, 0x23, 0x45, 0x67, 0x89]);
        assert_eq!(host_mac(&id), [0x06, 0x01, 0x23, 0x45, 0x67, 0x89]);
    }

    #[test]
    fn a_pod_is_known_by_its_interface() {
        let id: PodId = "0123456789abcdef".repeat(4).parse().unwrap();
        let name = host_end(&Prefix::default(), &id);
        let short = format!("{:0<64}", id.short());
        let cases: &[(&[&PodId], &str, &str, &[&str])] = &[
            (&[], &name, id.as_str(), &[id.as_str()]),
            (&[], &name, "", &[&short]),
            (&[&id], &name, "", &[id.as_str()]),
            (&[&id], &name, id.as_str(), &[id.as_str()]),
            (&[], "cbbr0", "", &[]),
            (&[], "cbxxxxxxxxxxxxo", "", &[]),
            (&[], "cc0123456789abo", id.as_str(), &[]),
        ];
        for (known, name, note, expected) in cases {
            let mut ids: Vec<PodId> = known.iter().map(|id| (*id).clone()).collect();
            add_from_interfaces(&mut ids, &Prefix::default(), std::iter::once((*name, *note)));
            assert_eq!(ids.iter().map(PodId::as_str).collect::<Vec<_>>(), *expected, "{name} {note}");
        }
    }
}
