//! The mounts of /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::io;
use std::path::{Path, PathBuf};

/// The propagation of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peers {
    /// To its peers and from them.
    Shared,
    /// From its master.
    Slave,
    /// Neither.
    Private,
}

/// The mount that a path is on: its mount point and its propagation.
pub(super) fn mount_of(path: &Path) -> io::Result<(PathBuf, Peers)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let on = text.lines().filter_map(entry).filter(|(point, _)| path.starts_with(point));
    // The last of the longest: later mounts hide earlier ones.
    let mount = on.max_by_key(|(point, _)| point.components().count());
    mount.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no mount holds {}", path.display())))
}

/// Parses a line: the mount point is the fifth field, the optional fields end with a hyphen.
fn entry(line: &str) -> Option<(PathBuf, Peers)> {
    let mut fields = line.split(' ');
    let point = unescape(fields.nth(4)?);
    let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
    let has = |name: &str| optional.iter().any(|field| field.starts_with(name));
    let peers = match () {
        () if has("shared:") => Peers::Shared,
        () if has("master:") => Peers::Slave,
        () => Peers::Private,
    };
    Some((PathBuf::from(point), peers))
}

/// Decodes spaces, tabs, line feeds and backslashes, which are three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (escaped, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(escaped, character);
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Peers, entry};

    #[test]
    fn a_line_is_read() {
        let cases = [
            ("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw", "/mnt2", Peers::Slave),
            ("36 35 98:0 / / rw shared:4 master:1 - ext3 /dev/root rw", "/", Peers::Shared),
            ("36 35 98:0 / /a\\040b rw - ext3 /dev/root rw", "/a b", Peers::Private),
        ];
        for (line, point, peers) in cases {
            assert_eq!(entry(line).unwrap(), (PathBuf::from(point), peers));
        }
    }
}
