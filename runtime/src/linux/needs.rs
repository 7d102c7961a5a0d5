//! What this backend needs of the node.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use host::Need;
use host::run::Tool;

use super::cgroup::Hierarchies;
use crate::Error;

/// The first runc with recursively read-only mounts and `exec --cgroup`.
const RUNC_VERSION: (u32, u32) = (1, 1);
/// The first kernel with mount_setattr(2), which makes mounts read-only recursively.
const KERNEL_VERSION: (u32, u32) = (5, 12);

/// runc's version, once it is found: it is not asked again for every Status.
static RUNC: OnceLock<String> = OnceLock::new();

pub(super) fn needs(hierarchies: Result<Arc<Hierarchies>, Error>) -> Vec<Need> {
    vec![runc(), cgroups(hierarchies), root()]
}

fn need(name: &str, found: String, remedy: Option<&str>) -> Need {
    Need { name: name.to_owned(), found, required: true, remedy: remedy.map(str::to_owned) }
}

fn runc() -> Need {
    let name = "program runc";
    let Some(version) = runc_version() else {
        return need(name, "not found".to_owned(), Some("install it: apt-get install runc"));
    };
    let is_enough = version_of(&version).is_some_and(|found| found >= RUNC_VERSION);
    need(name, version, if is_enough { None } else { Some("install runc 1.1 or newer") })
}

fn runc_version() -> Option<String> {
    if let Some(known) = RUNC.get() {
        return Some(known.clone());
    }
    let output = Tool::new("runc").args(["--version"]).run().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next()?.trim_start_matches("runc version ").to_owned();
    Some(RUNC.get_or_init(|| version).clone())
}

fn cgroups(hierarchies: Result<Arc<Hierarchies>, Error>) -> Need {
    match hierarchies.as_deref() {
        Ok(Hierarchies::V1(controllers)) => {
            let names: Vec<&str> = controllers.keys().map(String::as_str).collect();
            need("cgroups", format!("version 1: {}", names.join(" ")), None)
        }
        Ok(Hierarchies::V2(root)) => need("cgroups", format!("version 2 at {}", root.display()), None),
        Err(error) => need("cgroups", host::chain(error), Some("mount them: mount -t cgroup2 none /sys/fs/cgroup")),
    }
}

fn root() -> Need {
    if nix::unistd::geteuid().is_root() {
        need("rights", "root".to_owned(), None)
    } else {
        need("rights", "not root".to_owned(), Some("run it as root"))
    }
}

/// Whether the kernel makes mounts read-only recursively.
pub(super) fn has_recursive_read_only() -> bool {
    let release = std::fs::read_to_string(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    version_of(&release).is_some_and(|found| found >= KERNEL_VERSION)
}

/// The first two numbers of a version.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version_of("1.1.5+ds1"), Some((1, 1)));
        assert_eq!(version_of("6.18.44-fc"), Some((6, 18)));
        assert!(version_of("1.10.0") > version_of("1.9.9"));
        assert_eq!(version_of("unknown"), None);
    }
}
