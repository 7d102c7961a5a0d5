//! The capabilities of a container (capabilities(7)).

use crate::Error;
use crate::spec::Security;

/// Every capability, in the order of its number.
const ALL: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The default set, as in containerd and Docker.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capabilities of a container, with their prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sets {
    /// Bounding, permitted, effective.
    pub(super) held: Vec<String>,
    /// Ambient and inheritable.
    pub(super) ambient: Vec<String>,
}

/// Computes them. `own` is the mask that the server can pass on (CapBnd of its /proc/self/status), which is also `ALL`; a named
/// capability outside of it is refused.
pub(super) fn sets(security: &Security, own: u64) -> Result<Sets, Error> {
    let available: Vec<&str> =
        ALL.iter().enumerate().filter(|(bit, _)| own >> bit & 1 == 1).map(|(_, name)| *name).collect();
    let has_all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut held: Vec<&str> = if security.privileged || has_all(&security.add_capabilities) {
        available.clone()
    } else if has_all(&security.drop_capabilities) {
        Vec::new()
    } else {
        DEFAULT.iter().copied().filter(|name| available.contains(name)).collect()
    };
    if !security.privileged {
        for name in named("security.add_capabilities", &security.add_capabilities)? {
            if !available.contains(&name) {
                return Err(refused("security.add_capabilities", name, "the server does not have it itself"));
            }
            if !held.contains(&name) {
                held.push(name);
            }
        }
        let dropped = named("security.drop_capabilities", &security.drop_capabilities)?;
        held.retain(|name| !dropped.contains(name));
    }
    let ambient = named("security.ambient_capabilities", &security.ambient_capabilities)?;
    if let Some(name) = ambient.iter().find(|name| !held.contains(name)) {
        return Err(refused("security.ambient_capabilities", name, "the container does not have it"));
    }
    let prefixed = |names: Vec<&str>| names.into_iter().map(|name| format!("CAP_{name}")).collect();
    Ok(Sets { held: prefixed(held), ambient: prefixed(ambient) })
}

/// The known names of a list, without `ALL`.
fn named(field: &str, list: &[String]) -> Result<Vec<&'static str>, Error> {
    let listed = list.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
    listed
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
            ALL.iter().copied().find(|known| *known == plain).ok_or_else(|| refused(field, name, "unknown"))
        })
        .collect()
}

fn refused(field: &str, name: &str, why: &str) -> Error {
    Error::invalid(field, format!("capability {name:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::{ALL, DEFAULT, sets};
    use crate::spec::{Profile, Security};

    fn security(add: &[&str], drop: &[&str], ambient: &[&str]) -> Security {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Security {
            privileged: false,
            no_new_privileges: false,
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ambient_capabilities: owned(ambient),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: Profile::Unconfined,
            apparmor: Profile::Unconfined,
        }
    }

    #[test]
    fn what_is_added_and_dropped_is_as_containerd_has_it() {
        let every = u64::MAX;
        let count = |add: &[&str], drop: &[&str]| sets(&security(add, drop, &[]), every).unwrap().held.len();
        assert_eq!(count(&[], &[]), DEFAULT.len());
        assert_eq!(count(&["ALL"], &[]), ALL.len());
        assert_eq!(count(&["ALL"], &["CHOWN"]), ALL.len() - 1);
        assert_eq!(count(&[], &["ALL"]), 0);
        assert_eq!(sets(&security(&["net_admin"], &["all"], &[]), every).unwrap().held, ["CAP_NET_ADMIN"]);
        assert_eq!(count(&["CAP_SYS_TIME"], &["CHOWN"]), DEFAULT.len());
    }

    #[test]
    fn ambient_ones_must_be_held() {
        let got = sets(&security(&["SYS_TIME"], &[], &["SYS_TIME"]), u64::MAX).unwrap();
        assert_eq!(got.ambient, ["CAP_SYS_TIME"]);
        assert!(sets(&security(&[], &[], &["SYS_TIME"]), u64::MAX).is_err());
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        let without_admin = !(1u64 << 21);
        let error = sets(&security(&["SYS_ADMIN"], &[], &[]), without_admin).unwrap_err();
        assert!(error.to_string().contains("SYS_ADMIN"), "{error}");
        assert_eq!(sets(&security(&["ALL"], &[], &[]), without_admin).unwrap().held.len(), ALL.len() - 1);
        assert!(sets(&security(&["FLY"], &[], &[]), u64::MAX).is_err());
    }
}
