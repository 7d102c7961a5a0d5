//! The devices of a container, as rules of devfs(8): all are hidden, then those that every program expects and those of the
//! spec are shown.

use std::path::Path;

use super::NAME;
use crate::Error;
use crate::spec::Device;

/// The longest pattern of a rule (DEVFS_MAXPTRNLEN in sys/fs/devfs/devfs.h), its NUL included.
pub(super) const PATTERN_LENGTH: usize = 200;

/// The devices of every container: those of devfs_rules_jail in /etc/defaults/devfs.rules that need no further rights.
const DEFAULT: [&str; 16] = [
    "null", "zero", "full", "random", "urandom", "crypto", "ptmx", "pts", "pts/*", "tty", "fd", "fd/*", "stdin",
    "stdout", "stderr", "shm",
];

/// The packet filter's, pf(4). Whoever can open it may change that of its vnet.
const FILTER: &str = "pf";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The paths below /dev that it matches; None: all.
    pub(super) pattern: Option<String>,
    /// Whether they are shown or hidden.
    pub(super) show: bool,
}

/// The rules for a container with these additional devices.
///
/// # Errors
/// [`Error::Invalid`] for a device that is not below /dev, [`Error::Unsupported`] for another path or for less than reading and
/// writing: devfs shows a device in its own place or not at all, and root may always use it.
pub(super) fn rules(devices: &[Device]) -> Result<Vec<Rule>, Error> {
    let show = |pattern: &str| Rule { pattern: Some(pattern.to_owned()), show: true };
    let mut rules = vec![Rule { pattern: None, show: false }];
    rules.extend(DEFAULT.map(show));
    for device in devices {
        let source = device.source.as_path();
        let name = below_dev(source)?;
        if device.destination != device.source {
            let what = format!("device {} at {}", source.display(), device.destination.display());
            return Err(Error::Unsupported { what, backend: NAME });
        }
        if !(device.read && device.write) {
            let what = format!("device {} that may not be read and written", source.display());
            return Err(Error::Unsupported { what, backend: NAME });
        }
        // The directories on the way are entries too.
        rules.extend(name.match_indices('/').map(|(end, _)| show(&name[..end])));
        rules.push(show(name));
    }
    Ok(rules)
}

/// The rules for a container that has every device, in a pod with a network of its own, whose packet filter is not the
/// container's.
pub(super) fn all_but_the_filter() -> Vec<Rule> {
    vec![Rule { pattern: Some(FILTER.to_owned()), show: false }]
}

/// Refuses the packet filter as a device.
pub(super) fn check_no_filter(devices: &[Device]) -> Result<(), Error> {
    let is_filter = |device: &Device| below_dev(&device.source).is_ok_and(|name| name == FILTER);
    if devices.iter().any(is_filter) {
        let what = format!("device /dev/{FILTER} in a pod with a network of its own");
        return Err(Error::Unsupported { what, backend: NAME });
    }
    Ok(())
}

/// Whether this text, as a pattern of devfs(8), matches only the entry of this name.
pub(super) fn is_pattern_of_itself(name: &str) -> bool {
    !name.contains(['*', '?', '[', '\\']) && name.len() < PATTERN_LENGTH
}

fn below_dev(source: &Path) -> Result<&str, Error> {
    let invalid = |reason: &str| Error::invalid("devices.source", format!("{} {reason}", source.display()));
    let name = source.strip_prefix("/dev").ok().and_then(Path::to_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| invalid("is not a device below /dev"))?;
    if name.split('/').any(|part| part == "..") || !is_pattern_of_itself(name) {
        return Err(invalid("is not the name of one device that a rule of devfs can show"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::{Rule, rules};
    use crate::Error;
    use crate::spec::Device;

    fn device(path: &str) -> Device {
        Device { source: path.into(), destination: path.into(), read: true, write: true, mknod: true }
    }

    #[test]
    fn everything_is_hidden_first() {
        let rules = rules(&[device("/dev/dri/card0")]).unwrap();
        assert_eq!(rules[0], Rule { pattern: None, show: false });
        assert!(rules[1..].iter().all(|rule| rule.show && rule.pattern.is_some()));
        let last: Vec<_> = rules[rules.len() - 2..].iter().map(|rule| rule.pattern.as_deref().unwrap()).collect();
        assert_eq!(last, ["dri", "dri/card0"]);
    }

    #[test]
    fn what_is_no_single_device_is_refused() {
        for path in ["/etc/passwd", "/dev", "/dev/../etc", "/dev/*", &format!("/dev/{}", "a".repeat(200))] {
            let error = rules(&[device(path)]).unwrap_err();
            assert!(matches!(error, Error::Invalid { ref reason, .. } if reason.contains(path)), "{error}");
        }
        let moved = Device { destination: "/dev/b".into(), ..device("/dev/a") };
        let readonly = Device { write: false, ..device("/dev/a") };
        for device in [moved, readonly] {
            assert!(matches!(rules(&[device]), Err(Error::Unsupported { .. })));
        }
    }
}
