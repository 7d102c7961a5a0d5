//! The changes of a kubelet to the machine: the node's address, a root cgroup, kernel settings, and two directories with built-in
//! paths. All are undone at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Program;
use crate::server::Site;
use crate::wait::until;

/// The settings of kubelet (pkg/kubelet/cm, setupKernelTunables) and kube-proxy.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// The paths built into kubelet: sockets of device plugins, and links to the logs of containers.
const DIRECTORIES: [&str; 2] = ["/var/lib/kubelet", "/var/log/containers"];
/// One run at a time on a machine.
const LOCK: &str = "/run/cellblock-e2e-kubernetes.lock";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The former state of the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    address: String,
    cgroup: String,
    settings: Vec<(PathBuf, String)>,
    directories: Vec<PathBuf>,
    dir: PathBuf,
    restored: bool,
    /// Held while this exists.
    _lock: fs::File,
}

impl Machine {
    /// Makes the node's address and its root cgroup, and saves the rest.
    pub(crate) fn prepare(site: &Site) -> Result<Self> {
        // Concurrent runs would save each other's settings as the machine's.
        let lock = fs::File::create(LOCK).with_context(|| format!("cannot open {LOCK}"))?;
        lock.lock()?;
        let settings = SETTINGS.iter().map(|name| Path::new("/proc/sys").join(name));
        let settings = settings.filter_map(|path| fs::read_to_string(&path).ok().map(|value| (path, value))).collect();
        let directories = DIRECTORIES.iter().map(PathBuf::from).filter(|path| !path.exists()).collect();
        let machine = Self {
            // From the range for benchmarks (RFC 2544), which no network of the machine uses.
            address: format!("198.18.{}.1", site.network()),
            cgroup: format!("cellblock-{}-kubernetes", site.prefix()),
            settings,
            directories,
            dir: site.dir().to_owned(),
            restored: false,
            _lock: lock,
        };
        // kubelet refuses 127.0.0.1 as the node's address, but accepts another one of loopback.
        Program::new("ip", ["address", "replace", &machine.cidr(), "dev", "lo"]).run()?;
        for hierarchy in hierarchies()? {
            make_cgroup(&hierarchy, &machine.cgroup)?;
        }
        Ok(machine)
    }

    /// The node's address, which is reachable on this machine only.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The root of the kubelet's cgroups.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.cgroup)
    }

    /// Restores everything after kubelet and the containers are gone. Idempotent.
    pub(crate) fn restore(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.restored, true) {
            return Ok(());
        }
        let mut errors: Vec<anyhow::Error> = Vec::new();
        let mut note = |result: Result<()>| errors.extend(result.err());
        // kubelet leaves a bind mount of its directory on itself.
        let root = self.dir.join("kubelet/root");
        if mount_points()?.contains(&root) {
            note(Program::new("umount", ["-l".as_ref(), root.as_os_str()]).run().map(drop));
        }
        note(Program::new("ip", ["address", "delete", &self.cidr(), "dev", "lo"]).run().map(drop));
        for (path, value) in &self.settings {
            note(fs::write(path, value.trim()).with_context(|| format!("cannot restore {}", path.display())));
        }
        note(remove_cgroups(&self.cgroup));
        for directory in self.directories.iter().filter(|path| path.exists()) {
            note(fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display())));
        }
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Unmounts everything below the run's directory after a failed run, so that the directory can be removed.
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

/// The hierarchy of cgroup version 2, or those of all controllers of version 1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(CGROUPS)]);
    }
    let entries = fs::read_dir(CGROUPS)?.collect::<Result<Vec<_>, _>>()?;
    // cpu and cpuacct may be links to one directory.
    Ok(entries
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// The directory of a controller's cgroups: of version 2 those of all.
pub(crate) fn hierarchy(controller: &str) -> Result<PathBuf> {
    let all = hierarchies()?;
    let only = all.iter().find(|path| path.ends_with(controller)).or(all.first().filter(|_| all.len() == 1));
    only.cloned().with_context(|| format!("there are no cgroups of {controller}"))
}

fn make_cgroup(hierarchy: &Path, name: &str) -> Result<()> {
    let dir = hierarchy.join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create the cgroup {}", dir.display()))?;
    // Version 1: no process can enter a cgroup without CPUs and memory nodes, and a new one has none.
    for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| dir.join(file).exists()) {
        let of_parent = fs::read_to_string(hierarchy.join(file))?;
        if !of_parent.trim().is_empty() {
            fs::write(dir.join(file), of_parent)?;
        }
    }
    Ok(())
}

/// Removes the trees of cgroups of this name, of all controllers.
pub(crate) fn remove_cgroups(name: &str) -> Result<()> {
    hierarchies()?.iter().try_for_each(|hierarchy| remove_cgroup(&hierarchy.join(name)))
}

/// Removes a tree of cgroups; remaining processes are an error.
fn remove_cgroup(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path())?;
    }
    // Processes that have just exited leave the cgroup a moment later.
    until(Duration::from_secs(10), || match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("cannot remove the cgroup {}: {error}", dir.display()),
    })
}
