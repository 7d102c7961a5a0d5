//! The kernel parameters that a pod may set: those of its network stack (CTLFLAG_VNET). All others are the host's.

use crate::Error;

/// The trees of the vnet; the kernel refuses the host's parameters in them.
const OWN: [&str; 4] = ["net.inet.", "net.inet6.", "net.link.", "net.local."];

/// Refuses a parameter that a pod may not set.
///
/// # Errors
/// [`Error::Invalid`] names it.
pub(super) fn check(name: &str) -> Result<(), Error> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'%');
    if OWN.iter().any(|tree| name.starts_with(tree)) && name.bytes().all(valid) {
        return Ok(());
    }
    let reason =
        format!("{name:?} is not a parameter of a pod's own network (net.inet, net.inet6, net.link, net.local)");
    Err(Error::invalid("sysctls", reason))
}

/// Encodes a value for the kernel, by the size of the current one: a number of four or eight bytes, else a text.
pub(super) fn encode(value: &str, size: usize) -> Option<Vec<u8>> {
    match size {
        4 => {
            let number = value.parse::<i32>().ok().map(i32::to_ne_bytes);
            number.or_else(|| value.parse::<u32>().ok().map(u32::to_ne_bytes)).map(Into::into)
        }
        8 => {
            let number = value.parse::<i64>().ok().map(i64::to_ne_bytes);
            number.or_else(|| value.parse::<u64>().ok().map(u64::to_ne_bytes)).map(Into::into)
        }
        _ => Some([value.as_bytes(), b"\0"].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::{check, encode};

    #[test]
    fn only_the_pods_own_network_is_set() {
        for name in ["net.inet.tcp.msl", "net.inet6.ip6.hlim"] {
            check(name).unwrap();
        }
        for name in ["kern.maxproc", "net.pf.states_hashsize", "net.ipv4.ip_forward", "net.inet.x y", "net.inet"] {
            assert!(check(name).unwrap_err().to_string().contains(&format!("{name:?}")), "{name}");
        }
    }

    #[test]
    fn a_value_has_the_kernels_size() {
        assert_eq!(encode("-1", 4), Some((-1i32).to_ne_bytes().into()));
        assert_eq!(encode("4294967295", 4), Some(u32::MAX.to_ne_bytes().into()));
        assert_eq!(encode("7", 8), Some(7i64.to_ne_bytes().into()));
        assert_eq!(encode("cubic", 16), Some(b"cubic\0".into()));
        assert_eq!(encode("much", 4), None);
    }
}
