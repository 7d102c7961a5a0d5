//! The device nodes of a container.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Error;
use crate::spec::Device;

/// The depth to which a directory of devices is walked: /dev/bus/usb/001 is three.
const DEPTH_LIMIT: usize = 8;
/// The entries of /dev that a privileged container does not take from the host.
const OWN: &[&str] = &["/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/.lxc"];

/// The nodes, and the rules that allow their use.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) nodes: Vec<Value>,
    pub(crate) rules: Vec<Value>,
}

/// The devices of the spec, or of a privileged container all devices of the host.
pub(crate) fn devices(wanted: &[Device], privileged: bool) -> Result<Devices, Error> {
    let mut found = Devices { nodes: Vec::new(), rules: vec![json!({ "allow": privileged, "access": "rwm" })] };
    for device in wanted {
        let access = access(device);
        for (source, path) in nodes_of(device)? {
            found.add(&source, &path, &access)?;
        }
    }
    if privileged {
        let mut host = Vec::new();
        walk(Path::new("/dev"), DEPTH_LIMIT, &mut host);
        host.retain(|path| !OWN.iter().any(|own| path.starts_with(own)));
        for path in host {
            if !wanted.iter().any(|device| device.destination == path) {
                found.add(&path, &path, "rwm")?;
            }
        }
    }
    Ok(found)
}

impl Devices {
    fn add(&mut self, source: &Path, path: &Path, access: &str) -> Result<(), Error> {
        let metadata = std::fs::metadata(source).map_err(|error| invalid(source, &error.to_string()))?;
        let Some(kind) = kind(&metadata) else { return Err(invalid(source, "not a device")) };
        let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
        self.nodes.push(json!({
            "path": path, "type": kind, "major": major, "minor": minor,
            "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid(),
        }));
        let rule = json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access });
        self.rules.push(rule);
        Ok(())
    }
}

fn access(device: &Device) -> String {
    [(device.read, 'r'), (device.write, 'w'), (device.mknod, 'm')]
        .into_iter()
        .filter_map(|(allowed, letter)| allowed.then_some(letter))
        .collect()
}

/// A device, or every device below a directory, with its path in the container. Symbolic links are followed.
fn nodes_of(device: &Device) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let source = std::fs::canonicalize(&device.source).map_err(|error| invalid(&device.source, &error.to_string()))?;
    if !source.is_dir() {
        return Ok(vec![(source, device.destination.clone())]);
    }
    let mut found = Vec::new();
    walk(&source, DEPTH_LIMIT, &mut found);
    let relocated = |path: PathBuf| {
        let below = path.strip_prefix(&source).unwrap_or(&path).to_owned();
        (path, device.destination.join(below))
    };
    Ok(found.into_iter().map(relocated).collect())
}

/// The devices below a directory; unreadable ones are left out.
fn walk(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else { continue };
        if kind(&metadata).is_some() {
            found.push(entry.path());
        } else if metadata.is_dir() && depth > 0 && !OWN.iter().any(|own| entry.path() == Path::new(own)) {
            walk(&entry.path(), depth - 1, found);
        }
    }
}

fn kind(metadata: &Metadata) -> Option<&'static str> {
    let file_type = metadata.file_type();
    if file_type.is_char_device() {
        Some("c")
    } else if file_type.is_block_device() {
        Some("b")
    } else {
        None
    }
}

fn invalid(path: &Path, reason: &str) -> Error {
    Error::invalid("devices", format!("{}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::devices;
    use crate::spec::Device;

    fn device(source: &str, write: bool) -> Device {
        Device { source: source.into(), destination: "/dev/x".into(), read: true, write, mknod: false }
    }

    #[test]
    fn a_device_gets_its_node_and_its_rule() {
        let found = devices(&[device("/dev/null", false)], false).unwrap();
        assert_eq!((found.nodes[0]["major"].as_u64(), found.nodes[0]["minor"].as_u64()), (Some(1), Some(3)));
        assert_eq!(found.rules[0]["allow"], false);
        assert_eq!(found.rules[1]["access"], "r");
    }

    #[test]
    fn what_is_not_a_device_is_refused_by_name() {
        let error = devices(&[device("/etc/passwd", true)], false).unwrap_err();
        assert!(error.to_string().contains("/etc/passwd: not a device"), "{error}");
        assert!(devices(&[device("/dev/none-such", true)], false).is_err());
    }
}
