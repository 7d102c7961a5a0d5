//! The rights of a container in jail(8)'s terms: privileged and the capabilities become allow.* parameters, a securelevel and
//! visible devices. docs/coverage.md has the table. Root in a jail keeps its power over its files and processes: dropping a
//! capability has an effect only if a jail parameter stands for it.

use std::collections::BTreeSet;

use super::NAME;
use super::requested;
use crate::Error;
use crate::spec::{ContainerSpec, Security};

/// Parameters of every container, unless the capability that stands for them is dropped.
const DEFAULT: [&str; 2] = ["raw_sockets", "reserved_ports"];

/// Parameters of a privileged container. Those that a kernel does not have are left out ([`super::params`]).
const PRIVILEGED: [&str; 16] = [
    "adjtime",
    "chflags",
    "extattr",
    "mlock",
    "mount",
    "mount.devfs",
    "mount.fdescfs",
    "mount.nullfs",
    "mount.procfs",
    "mount.tmpfs",
    "quotas",
    "raw_sockets",
    "read_msgbuf",
    "reserved_ports",
    "settime",
    "socket_af",
];

/// System flags of files cannot be cleared, and raw disks cannot be written (security(7)).
const SECURELEVEL: i32 = 2;
/// The same as the parent.
const SECURELEVEL_OFF: i32 = -1;

/// Capabilities with a parameter.
const MAPPED: [(&str, &[&str]); 7] = [
    ("NET_RAW", &["raw_sockets"]),
    ("NET_BIND_SERVICE", &["reserved_ports"]),
    ("IPC_LOCK", &["mlock"]),
    ("SYSLOG", &["read_msgbuf"]),
    ("SYS_TIME", &["settime", "adjtime"]),
    ("LINUX_IMMUTABLE", &["chflags"]),
    ("SYS_ADMIN", &["extattr", "mount", "mount.fdescfs", "mount.nullfs", "mount.procfs", "mount.tmpfs", "quotas"]),
];

/// Capabilities that root in a jail always has.
const INHERENT: [&str; 16] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_OWNER",
    "KILL",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_PTRACE",
    "SYS_RESOURCE",
];

/// Capabilities that a jail cannot give. MKNOD is among Linux's defaults: a jail has only the devices of its ruleset.
const REFUSED: [&str; 18] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "LEASE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PACCT",
    "SYS_RAWIO",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Parameters that no container has unless its spec names them.
pub(super) const REQUESTED_ONLY: [&str; 1] = ["vmm"];

/// The rights of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rights {
    /// Names below `allow.`.
    pub(super) allow: BTreeSet<&'static str>,
    pub(super) securelevel: i32,
    /// Whether it sees every device of the host.
    pub(super) all_devices: bool,
}

impl Rights {
    /// The rights of a container: what its security demands, changed by the parameters that the spec names.
    ///
    /// # Errors
    /// As [`Rights::of`], and [`Error::Invalid`] for a parameter.
    pub(super) fn of_container(spec: &ContainerSpec) -> Result<Self, Error> {
        let mut rights = Self::of(&spec.security)?;
        for (parameter, allowed) in requested::allowed(&spec.jail)? {
            if !allowed {
                rights.allow.remove(parameter);
                continue;
            }
            rights.allow.insert(parameter);
            if parameter == "chflags" {
                rights.securelevel = SECURELEVEL_OFF;
            }
        }
        Ok(rights)
    }

    /// The rights of a security.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a capability that a jail cannot give, [`Error::Invalid`] for one that does not exist.
    pub(super) fn of(security: &Security) -> Result<Self, Error> {
        for name in security.drop_capabilities.iter().filter(|name| *name != "ALL") {
            known(name, "security.drop_capabilities")?;
        }
        for name in &security.ambient_capabilities {
            known(name, "security.ambient_capabilities")?;
        }
        if security.privileged {
            return Ok(Self::privileged());
        }
        let mut allow: BTreeSet<&'static str> = DEFAULT.into();
        for name in &security.drop_capabilities {
            if name == "ALL" {
                allow.clear();
            }
            allow.retain(|parameter| !mapped(name).contains(parameter));
        }
        let mut securelevel = SECURELEVEL;
        for name in &security.add_capabilities {
            if name == "ALL" {
                let all = Self::privileged();
                (allow, securelevel) = (all.allow, all.securelevel);
                continue;
            }
            known(name, "security.add_capabilities")?;
            if REFUSED.contains(&name.as_str()) {
                return Err(Error::Unsupported { what: format!("capability {name}"), backend: NAME });
            }
            allow.extend(mapped(name));
            if name == "LINUX_IMMUTABLE" {
                securelevel = SECURELEVEL_OFF;
            }
        }
        Ok(Self { allow, securelevel, all_devices: false })
    }

    /// The rights of a privileged container.
    pub(super) fn privileged() -> Self {
        Self { allow: PRIVILEGED.into(), securelevel: SECURELEVEL_OFF, all_devices: true }
    }

    /// The rights of a pod's jail: a child never has more than its parent (jail(8)). The capabilities of containers are not
    /// known when the pod is created, so it has all of them: no process runs in it.
    pub(super) fn of_pod() -> Self {
        Self::privileged()
    }

    /// Every parameter that is set, on or off.
    pub(super) fn all_parameters() -> BTreeSet<&'static str> {
        PRIVILEGED.into_iter().chain(REQUESTED_ONLY).collect()
    }
}

fn mapped(name: &str) -> &'static [&'static str] {
    MAPPED.iter().find(|(capability, _)| *capability == name).map_or(&[], |(_, parameters)| parameters)
}

fn known(name: &str, field: &str) -> Result<(), Error> {
    let exists = !mapped(name).is_empty() || INHERENT.contains(&name) || REFUSED.contains(&name) || name == "ALL";
    if exists {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{name:?} is not a capability")))
}

#[cfg(test)]
mod tests {
    use super::{MAPPED, PRIVILEGED, Rights};
    use crate::Error;
    use crate::spec::{Profile, Security};

    fn security(add: &[&str], drop: &[&str]) -> Security {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Security {
            privileged: false,
            no_new_privileges: false,
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ambient_capabilities: Vec::new(),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: Profile::RuntimeDefault,
            apparmor: Profile::RuntimeDefault,
        }
    }

    #[test]
    fn capabilities_become_parameters() {
        let cases: [(&[&str], &[&str], &[&str]); 6] = [
            (&[], &[], &["raw_sockets", "reserved_ports"]),
            (&[], &["NET_RAW"], &["reserved_ports"]),
            (&[], &["ALL"], &[]),
            (&["NET_BIND_SERVICE"], &["ALL"], &["reserved_ports"]),
            (&["CHOWN", "SYS_TIME"], &["ALL"], &["adjtime", "settime"]),
            (&[], &["CHOWN", "MKNOD"], &["raw_sockets", "reserved_ports"]),
        ];
        for (add, drop, wanted) in cases {
            let rights = Rights::of(&security(add, drop)).unwrap();
            assert_eq!(rights.allow.into_iter().collect::<Vec<_>>(), wanted, "{add:?} {drop:?}");
            assert!(!rights.all_devices);
        }
        assert_eq!(Rights::of(&security(&["ALL"], &[])).unwrap().allow, Rights::privileged().allow);
    }

    #[test]
    fn what_a_jail_cannot_give_is_refused_and_named() {
        let refused = Rights::of(&security(&["NET_ADMIN"], &[])).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { ref what, .. } if what.contains("NET_ADMIN")), "{refused}");
        for (add, drop) in [(["FLY"], ["ALL"]), (["CHOWN"], ["FLY"])] {
            let invalid = Rights::of(&security(&add, &drop)).unwrap_err();
            assert!(matches!(invalid, Error::Invalid { ref reason, .. } if reason.contains("FLY")), "{invalid}");
        }
    }

    #[test]
    fn a_pod_has_all_that_its_containers_may_get() {
        for (_, parameters) in MAPPED {
            assert!(parameters.iter().all(|parameter| PRIVILEGED.contains(parameter)), "{parameters:?}");
        }
    }
}
