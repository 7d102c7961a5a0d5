//! What a kubelet needs of the machine and changes on it: an address that is the node's, a cgroup as its root, settings of the
//! kernel, and two directories whose paths are built into it. All of it is put back at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Program;
use crate::server::Site;
use crate::wait::until;

/// What kubelet sets (pkg/kubelet/cm, setupKernelTunables) and kube-proxy may.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Built into kubelet: the sockets of device plugins, and links to the logs of containers.
const DIRECTORIES: [&str; 2] = ["/var/lib/kubelet", "/var/log/containers"];
/// One run at a time on a machine.
const LOCK: &str = "/run/cellblock-e2e-kubernetes.lock";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The machine as it was.
#[derive(Debug)]
pub(crate) struct Machine {
    address: String,
    cgroup: String,
    settings: Vec<(PathBuf, String)>,
    directories: Vec<PathBuf>,
    dir: PathBuf,
    restored: bool,
    /// Held as long as this lives.
    _lock: fs::File,
}

impl Machine {
    /// Makes the node's address and its root cgroup, and remembers the rest.
    pub(crate) fn prepare(site: &Site) -> Result<Self> {
        // Two runs at a time would take each other's settings for the machine's.
        let lock = fs::File::create(LOCK).with_context(|| format!("cannot open {LOCK}"))?;
        lock.lock()?;
        let settings = SETTINGS.iter().map(|name| Path::new("/proc/sys").join(name));
        let settings = settings.filter_map(|path| fs::read_to_string(&path).ok().map(|value| (path, value))).collect();
        let directories = DIRECTORIES.iter().map(PathBuf::from).filter(|path| !path.exists()).collect();
        let machine = Self {
            // Of the range for benchmarks (RFC 2544), which no network of the machine has.
            address: format!("198.18.{}.1", site.network()),
            cgroup: format!("cellblock-{}-kubernetes", site.prefix()),
            settings,
            directories,
            dir: site.dir().to_owned(),
            restored: false,
            _lock: lock,
        };
        // kubelet refuses 127.0.0.1 as the node's address, but not another one of the loopback interface.
        Program::new("ip", ["address", "replace", &machine.cidr(), "dev", "lo"]).run()?;
        for hierarchy in hierarchies()? {
            make_cgroup(&hierarchy, &machine.cgroup)?;
        }
        Ok(machine)
    }

    /// The node's address: nothing outside of this machine reaches it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The root of the kubelet's cgroups.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.cgroup)
    }

    /// Puts everything back; kubelet and the containers are gone. Idempotent.
    pub(crate) fn restore(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.restored, true) {
            return Ok(());
        }
        let mut errors: Vec<anyhow::Error> = Vec::new();
        let mut note = |result: Result<()>| errors.extend(result.err());
        // kubelet mounts its directory on itself, to share what it mounts below it, and leaves that.
        let root = self.dir.join("kubelet/root");
        if mount_points()?.contains(&root) {
            note(Program::new("umount", ["-l".as_ref(), root.as_os_str()]).run().map(drop));
        }
        note(Program::new("ip", ["address", "delete", &self.cidr(), "dev", "lo"]).run().map(drop));
        for (path, value) in &self.settings {
            note(fs::write(path, value.trim()).with_context(|| format!("cannot restore {}", path.display())));
        }
        for hierarchy in hierarchies()? {
            note(remove_cgroup(&hierarchy.join(&self.cgroup)));
        }
        for directory in self.directories.iter().filter(|path| path.exists()) {
            note(fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display())));
        }
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Unmounts what is below the run's directory: after a run that failed, so that it can be looked at and removed.
    pub(crate) fn unmount(&self) -> Result<()> {
        let points = mount_points()?;
        let mut below = points.iter().rev().filter(|point| point.starts_with(&self.dir));
        below.try_for_each(|point| Program::new("umount", ["-l".as_ref(), point.as_os_str()]).run().map(drop))
    }

    fn cidr(&self) -> String {
        format!("{}/32", self.address)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.unmount().and_then(|()| self.restore()) {
            eprintln!("e2e: the machine is not as it was: {error:#}");
        }
    }
}

fn mount_points() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect())
}

/// The one hierarchy of version 2, or every controller's of version 1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(CGROUPS)]);
    }
    let entries = fs::read_dir(CGROUPS)?.collect::<Result<Vec<_>, _>>()?;
    // cpu and cpuacct may be links to a directory of both.
    Ok(entries
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

fn make_cgroup(hierarchy: &Path, name: &str) -> Result<()> {
    let dir = hierarchy.join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
    // Version 1: nothing runs in a cgroup without processors and memory nodes, and a new one has none.
    for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| dir.join(file).exists()) {
        let of_parent = fs::read_to_string(hierarchy.join(file))?;
        if !of_parent.trim().is_empty() {
            fs::write(dir.join(file), of_parent)?;
        }
    }
    Ok(())
}

/// Removes a cgroup with those below it; one that still has processes is an error.
fn remove_cgroup(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path())?;
    }
    // The kernel needs a moment for the processes that have just ended.
    until(Duration::from_secs(10), || match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("cannot remove the cgroup {}: {error}", dir.display()),
    })
}
