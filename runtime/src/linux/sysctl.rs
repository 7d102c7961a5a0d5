//! Kernel parameters of a pod: only those of its namespaces; any other would be the host's (sysctl(8)).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::spec::{PodSpec, Scope};

/// The parameters of the IPC namespace; a star ends a prefix.
const OF_IPC: &[&str] =
    &["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shm*", "fs.mqueue.*"];

/// What every pod with a network of its own has, as in containerd (enable_unprivileged_ports, enable_unprivileged_icmp).
const DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Refuses a parameter that is not in one of the pod's namespaces.
pub(super) fn check(spec: &PodSpec) -> Result<(), Error> {
    for name in spec.sysctls.keys() {
        let dotted = dotted(name);
        let scope = match () {
            () if dotted.starts_with("net.") => spec.network,
            () if OF_IPC.iter().any(|pattern| matches(pattern, &dotted)) => spec.ipc,
            () => return Err(refused(name, "not a parameter of a namespace")),
        };
        if scope == Scope::Host {
            return Err(refused(name, "the pod shares the host's namespace"));
        }
        if name.split(['.', '/']).any(str::is_empty) {
            return Err(refused(name, "not a name"));
        }
    }
    Ok(())
}

fn refused(name: &str, why: &str) -> Error {
    Error::invalid("sysctls", format!("{name:?}: {why}"))
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// In a name whose first separator is a slash, slashes and dots have changed places (sysctl.d(5)).
fn dotted(name: &str) -> String {
    if name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/') { swapped(name) } else { name.to_owned() }
}

fn swapped(name: &str) -> String {
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// Sets the parameters in the calling thread's namespaces. As on FreeBSD, a name or value that the kernel refuses is the
/// caller's error.
pub(super) fn apply(sysctls: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in sysctls {
        std::fs::write(path(name), value)
            .map_err(|error| Error::invalid("sysctls", format!("{name}={value}: {error}")))?;
    }
    Ok(())
}

/// Sets what every pod has. A node whose /proc is read-only has pods all the same.
pub(super) fn apply_defaults() {
    for (name, value) in DEFAULTS {
        if let Err(error) = std::fs::write(path(name), value) {
            tracing::warn!(name, %error, "a pod goes without a parameter that pods have");
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(swapped(&dotted(name)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{matches, path};

    #[test]
    fn both_ways_to_write_a_name_are_read() {
        for name in ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"] {
            assert_eq!(path(name), PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/forwarding"));
        }
    }

    #[test]
    fn a_pattern_with_a_star_is_a_prefix() {
        assert!(matches("kernel.shm*", "kernel.shmmax") && !matches("kernel.sem", "kernel.semantics"));
    }
}
