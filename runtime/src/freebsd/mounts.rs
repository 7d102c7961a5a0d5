//! Mounts file systems into a container's root by nmount(2), and unmounts all of them. [`host::root`] resolves a mount point
//! before and after: a mount that was led elsewhere meanwhile (a process in another container with the same volume can move
//! directories) is unmounted at once and refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use host::Failures;
use host::root::{Kind, resolve};
use nix::mount::{MntFlags, Nmount, unmount};
use nix::unistd::{chdir, fchdir, symlinkat};

use super::devices::Rule;
use super::mount_plan::{PlannedMount, Source};
use super::sys::devfs;
use super::sys::mount::{Mounted, all, of};
use crate::Error;
use crate::spec::MountOptions;

/// The file systems that this backend mounts: it unmounts no other.
const OURS: [&str; 7] = ["nullfs", "tmpfs", "devfs", "fdescfs", "procfs", "linprocfs", "linsysfs"];
/// The attempts to unmount everything, each with a new list of the mounts: another follows only where an unmount failed.
const ROUNDS: usize = 3;

/// One mount at a time: so a mount that appeared elsewhere is the one that was just made.
static MOUNTING: Mutex<()> = Mutex::new(());
/// One change of the working directory at a time: the process has one.
static MOVING: Mutex<()> = Mutex::new(());

/// A container's root.
pub(super) struct Root {
    /// Its path, without symbolic links.
    pub(super) path: PathBuf,
    opened: OwnedFd,
}

impl Root {
    /// Opens a root.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not a directory.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let opened = path.canonicalize().and_then(|path| Ok((host::root::open(&path)?, path)));
        let (opened, path) = opened.map_err(|error| Error::of_value("rootfs", path.display(), error))?;
        Ok(Self { path, opened })
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.opened
    }

    /// Finds a mount point or makes it, unless an earlier mount of the list will lie over it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the destination.
    pub(super) fn find_place(&self, wanted: &PlannedMount, earlier: &[PlannedMount], make: bool) -> Result<(), Error> {
        if earlier.iter().any(|other| wanted.place.starts_with(&other.place)) {
            return Ok(());
        }
        let kind = make.then(|| wanted.source.kind());
        resolve(&self.opened, &wanted.place, kind).map(drop).map_err(misplaced(wanted))
    }

    /// Mounts, checks the place of the mount, and returns it, as the host names it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid destination; any error of the kernel.
    pub(super) fn mount(&self, wanted: &PlannedMount) -> Result<PathBuf, Error> {
        let place = resolve(&self.opened, &wanted.place, Some(wanted.source.kind())).map_err(misplaced(wanted))?;
        if place.directory != (wanted.source.kind() == Kind::Directory) {
            let reason = if place.directory { "a directory, its source is a file" } else { "no directory" };
            return Err(misplaced(wanted)(io::Error::other(format!("it is {reason}"))));
        }
        let on = self.path.join(&place.path);
        let failed = || {
            let at = wanted.destination.display();
            format!("cannot mount {} on {at} of {}", wanted.source.file_system(), self.path.display())
        };
        let _turn = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let below = of(place.file.as_fd()).map_err(Error::failed(failed()))?;
        let at = if place.directory { Place::Directory(&place.file) } else { Place::File(&on) };
        nmount(&wanted.source, at, flags(wanted.readonly, wanted.options)).map_err(Error::failed(failed()))?;
        let arrived = resolve(&self.opened, &wanted.place, None).and_then(|found| of(found.file.as_fd()));
        match arrived {
            Ok(found) if found.on == on && found.fsid != below.fsid => Ok(on),
            other => {
                unmount_newest(wanted).map_err(Error::failed(failed()))?;
                let seen = other.map_or_else(|error| error.to_string(), |found| found.on.display().to_string());
                Err(misplaced(wanted)(io::Error::other(format!("it was moved while it was mounted (now {seen})"))))
            }
        }
    }
}

/// Makes a link in the devfs on /dev of a root, and shows it. The rule is applied to this link only: a rule of the ruleset
/// would also show a later device of the node with this name.
///
/// # Errors
/// Any error of the kernel.
pub(super) fn link_in_dev(root: &Root, name: &str, target: &Path) -> Result<(), Error> {
    let failed = || format!("cannot create the link /dev/{name} in {}", root.path.display());
    let dev = resolve(root.descriptor(), Path::new("/dev"), None).map_err(Error::failed(failed()))?.file;
    symlinkat(target, dev.as_fd(), name).map_err(|errno| Error::failed(failed())(io::Error::from(errno)))?;
    let shown = Rule { pattern: Some(name.to_owned()), show: true };
    devfs::apply(dev.as_fd(), &shown).map_err(Error::failed(failed()))
}

fn misplaced(wanted: &PlannedMount) -> impl FnOnce(io::Error) -> Error {
    let at = wanted.destination.display().to_string();
    move |error| Error::of_value("mounts.destination", at, error)
}

/// The flags of a mount (mount(2)). There is none for devices: a node works in devfs only.
pub(super) fn flags(readonly: bool, options: MountOptions) -> MntFlags {
    let all = [
        (readonly, MntFlags::MNT_RDONLY),
        (options.noexec, MntFlags::MNT_NOEXEC),
        (options.nosuid, MntFlags::MNT_NOSUID),
    ];
    all.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect()
}

/// A mount point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// An open directory: nobody can put another one into its place.
    Directory(&'a OwnedFd),
    /// A file, by its path on the host.
    File(&'a Path),
}

/// Mounts a file system. nmount(2) takes a path only, and "." is the directory that the process is in. The server has absolute
/// paths only, its workers start in `/`, and a tool that starts meanwhile ends soon: it matters to nobody that it moves.
pub(super) fn nmount(source: &Source, at: Place<'_>, flags: MntFlags) -> io::Result<()> {
    let (_moving, on) = match at {
        Place::File(path) => (None, path),
        Place::Directory(place) => {
            let moving = MOVING.lock().unwrap_or_else(PoisonError::into_inner);
            fchdir(place)?;
            (Some(moving), Path::new("."))
        }
    };
    let mounted = nmount_on(source, on, flags);
    if matches!(at, Place::Directory(_)) {
        // It would keep the mount around it from being unmounted.
        chdir("/")?;
    }
    mounted
}

fn nmount_on(source: &Source, on: &Path, flags: MntFlags) -> io::Result<()> {
    let options = source.options();
    let mut wanted = Nmount::new();
    wanted.str_opt_owned("fstype", source.file_system()).str_opt_owned("fspath", on);
    for (name, value) in &options {
        wanted.str_opt_owned(*name, value.as_str());
    }
    wanted.nmount(flags).map_err(|error| {
        let said = error.errmsg().unwrap_or_default().to_owned();
        let error = io::Error::from(error);
        if said.is_empty() { error } else { io::Error::new(error.kind(), format!("{said} ({error})")) }
    })
}

/// Unmounts the newest mount of this kind and source, wherever it is: the one that was just made, since this server makes no
/// other meanwhile.
fn unmount_newest(wanted: &PlannedMount) -> io::Result<()> {
    let from = wanted.source.options().into_iter().find(|(name, _)| *name == "from").map(|(_, from)| from);
    let list = all()?;
    let same = |mounted: &&Mounted| {
        mounted.kind == wanted.source.file_system() && from.as_ref().is_none_or(|from| *from == mounted.from)
    };
    match list.iter().rev().find(same) {
        Some(mounted) => unmount_one(mounted),
        None => Err(io::Error::other(format!("the mount meant for {} is not found", wanted.destination.display()))),
    }
}

fn unmount_one(mounted: &Mounted) -> io::Result<()> {
    let id = format!("FSID:{}:{}", mounted.fsid[0], mounted.fsid[1]);
    match unmount(id.as_str(), MntFlags::MNT_FORCE | MntFlags::MNT_BYFSID) {
        // It is gone.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Unmounts every mount of ours for which `inside` holds, the newest first, with force.
///
/// # Errors
/// Everything that could not be unmounted, in one error; the rest was tried.
pub(super) fn unmount_all(inside: impl Fn(&Path) -> bool) -> Result<(), Error> {
    let mut failures = Failures::<Error>::default();
    for _ in 0..ROUNDS {
        failures = Failures::default();
        let list = all().map_err(Error::failed("cannot list the mounts"))?;
        for mounted in list.iter().rev().filter(|m| OURS.contains(&m.kind.as_str()) && inside(&m.on)) {
            let failed = Error::failed(format!("cannot unmount {}", mounted.on.display()));
            failures.keep(unmount_one(mounted).map_err(failed));
        }
        if failures.is_empty() {
            return Ok(());
        }
    }
    failures.result(Error::failed("cannot unmount what a container has"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nix::mount::MntFlags;

    use super::{Place, all, nmount, unmount_one};
    use crate::freebsd::mount_plan::Source;

    #[test]
    fn a_directory_that_was_moved_is_mounted_on_all_the_same() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root mounts");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let below = scratch.path().canonicalize().unwrap();
        for name in ["a", "elsewhere"] {
            std::fs::create_dir(below.join(name)).unwrap();
        }
        let opened = host::root::open(&below.join("a")).unwrap();
        std::fs::rename(below.join("a"), below.join("b")).unwrap();
        std::os::unix::fs::symlink(below.join("elsewhere"), below.join("a")).unwrap();
        nmount(&Source::Tmpfs(None), Place::Directory(&opened), MntFlags::empty()).unwrap();
        let made: Vec<_> = all().unwrap().into_iter().filter(|mounted| mounted.on.starts_with(&below)).collect();
        made.iter().for_each(|mounted| unmount_one(mounted).unwrap());
        assert_eq!(made.iter().map(|mounted| mounted.on.as_path()).collect::<Vec<_>>(), [below.join("b")]);
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
    }
}
