//! Writes entries as files: each replaces an existing one, and gets owner, mode, extended attributes and time, in the order in
//! which none undoes another. Whiteouts remove files of lower layers only, never of their own layer, in whichever order the
//! entries come.
//!
//! Not unpacked: owners and devices without root (in tests); device nodes on FreeBSD, where only devfs(4) has working ones;
//! extended attributes other than those of the user namespace, POSIX ACLs and file capabilities, and on FreeBSD the last two;
//! file flags (chflags(2)).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, geteuid, linkat, mkfifoat, symlinkat};

use super::Failure;
use super::entry::{Entries, Entry, Kind, shown};
use super::place::{Place, Step, is_directory, look, open, remove};
use super::stream::unreadable;
use super::walk::{Places, names};
use crate::sys;

/// Entries of one layer: five times what the largest known images have.
const ENTRIES_MAX: u64 = 2_000_000;
/// Names that one layer writes, with those of directories without an entry: each takes 16 bytes of memory.
const NAMES_MAX: usize = 4_000_000;
/// Directories whose times are set at the end.
const DIRECTORIES_MAX: usize = 500_000;
/// The prefixes of a whiteout, of an opaque whiteout, and of aufs' own metadata.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// Names the entry at which a system call failed.
type Failed<'a> = &'a dyn Fn(Errno) -> Failure;

/// A layer while it is unpacked.
pub(super) struct Layer<'a> {
    root: &'a Place,
    places: Places<'a>,
    privileged: bool,
    entries: u64,
    /// Hashes of the paths, without symbolic links, that this layer wrote or wrote below. Names count, not files: a hard link of
    /// this layer may refer to a lower layer's file.
    own: HashSet<u64>,
    hasher: RandomState,
    /// Directories, by their paths without symbolic links, and their times, set at the end: new entries would change them.
    times: Vec<(Vec<u8>, TimeSpec)>,
}

impl<'a> Layer<'a> {
    pub(super) fn new(root: &'a Place) -> Self {
        Self {
            root,
            places: Places::new(root),
            privileged: geteuid().is_root(),
            entries: 0,
            own: HashSet::new(),
            hasher: RandomState::new(),
            times: Vec::new(),
        }
    }

    /// Unpacks one entry; a file's contents follow in `data`.
    pub(super) fn apply(&mut self, entry: &Entry, data: &mut Entries<impl BufRead>) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(Failure::invalid(format!("it has more than {ENTRIES_MAX} entries")));
        }
        let names = names(&entry.path)?;
        let Some((name, parents)) = names.split_last() else { return self.apply_root(entry) };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(entry, name, parents);
        }
        let parent = self.places.directory(parents, true)?.expect("missing directories are made");
        self.note_own(&parent.path, name)?;
        let (place, directory) = (&parent.place, &parent.place.directory);
        let failed = |error: Errno| Failure::system(format!("cannot unpack {}", shown(&entry.path)), error);
        let found = look(directory, name).map_err(failed)?;
        let kept = found.as_ref().is_some_and(is_directory) && entry.kind == Kind::Directory;
        if found.is_some() && !kept {
            self.places.forget();
            remove(directory, name).map_err(failed)?;
        }
        match &entry.kind {
            Kind::File => self.file(entry, name, directory, data),
            Kind::Directory => {
                let (opened, hidden) = match found {
                    Some(_) if kept => (open(directory, name).map_err(failed)?, 0),
                    Some(_) => {
                        place.make_opaque(name).map(|(made, hidden)| (made.directory, hidden)).map_err(failed)?
                    }
                    None => (place.make(name).map_err(failed)?.directory, 0),
                };
                self.places.hide(hidden)?;
                let path = parent.path.iter().map(Vec::as_slice).chain([name.as_bytes()]).collect::<Vec<_>>();
                self.directory(entry, path.join(&b'/'), opened.as_fd())
            }
            Kind::Hardlink(target) => {
                // What is below at this name does not lead to the target.
                place.hide(name).map_err(failed)?;
                self.hard_link(entry, target, name, directory)
            }
            _ => self.node(entry, name, directory),
        }
    }

    /// Sets the times of the directories and returns the number of entries.
    pub(super) fn finish(mut self) -> Result<u64, Failure> {
        // In any order: setting times does not change other directories.
        for (path, time) in std::mem::take(&mut self.times) {
            let failed = |error: Errno| Failure::system(format!("cannot set the time of {}", shown(&path)), error);
            // A later entry may have replaced the directory.
            if let Some(directory) = self.root.own(&path).map_err(failed)? {
                futimens(&directory, &time, &time).map_err(failed)?;
            }
        }
        Ok(self.entries)
    }

    /// Records a name that this layer writes, and each directory on its path.
    fn note_own(&mut self, path: &[Vec<u8>], name: &OsStr) -> Result<(), Failure> {
        let whole = self.hash(path, name);
        let parents = (0..path.len()).map(|at| self.hash(&path[..at], OsStr::from_bytes(&path[at])));
        let hashes: Vec<u64> = parents.chain([whole]).collect();
        self.own.extend(hashes);
        if self.own.len() > NAMES_MAX {
            return Err(Failure::invalid(format!("it has more than {NAMES_MAX} files and directories")));
        }
        Ok(())
    }

    fn hash(&self, path: &[Vec<u8>], name: &OsStr) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        path.iter().for_each(|name| name.hash(&mut hasher));
        name.as_bytes().hash(&mut hasher);
        hasher.finish()
    }

    /// Applies an entry of the root itself.
    fn apply_root(&mut self, entry: &Entry) -> Result<(), Failure> {
        if entry.kind != Kind::Directory {
            return Err(Failure::invalid(format!("entry {}: the root must be a directory", shown(&entry.path))));
        }
        let root = self.root;
        self.directory(entry, Vec::new(), root.directory.as_fd())
    }

    fn directory(&mut self, entry: &Entry, path: Vec<u8>, directory: BorrowedFd<'_>) -> Result<(), Failure> {
        if self.times.len() == DIRECTORIES_MAX {
            return Err(Failure::invalid(format!("it has more than {DIRECTORIES_MAX} directories")));
        }
        self.attributes(entry, directory)?;
        self.times.push((path, time(entry)));
        Ok(())
    }

    fn file(
        &self,
        entry: &Entry,
        name: &OsStr,
        directory: &OwnedFd,
        data: &mut Entries<impl BufRead>,
    ) -> Result<(), Failure> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(directory, name, flags, Mode::from_bits_truncate(0o600));
        let file = File::from(opened.map_err(|error| system(entry, error))?);
        let mut written = 0;
        for (offset, length) in &entry.extents {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let bytes = data.fill_buf().map_err(|error| in_entry(entry, unreadable(&error)))?;
                let read = usize::try_from(end - at).map_or(bytes.len(), |left| left.min(bytes.len()));
                file.write_all_at(&bytes[..read], at).map_err(|error| system(entry, error))?;
                data.consume(read);
                at += read as u64;
                written = at;
            }
        }
        if written != entry.size {
            file.set_len(entry.size).map_err(|error| system(entry, error))?;
        }
        self.attributes(entry, file.as_fd())?;
        futimens(&file, &time(entry), &time(entry)).map_err(|error| system(entry, error))
    }

    /// Sets owner, mode and extended attributes of an open file or directory, the owner first: chown(2) clears setuid bits and file
    /// capabilities.
    fn attributes(&self, entry: &Entry, file: BorrowedFd<'_>) -> Result<(), Failure> {
        if self.privileged {
            fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .map_err(|error| system(entry, error))?;
        }
        fchmod(file, mode(entry)).map_err(|error| system(entry, error))?;
        for (name, value) in &entry.xattrs {
            if !is_unpacked(name) {
                continue;
            }
            match sys::set_xattr(file, name, value) {
                // The file system has no extended attributes, or this one needs root.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP)) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM)) && !self.privileged => {}
                done => done.map_err(|error| {
                    Failure::system(format!("cannot set {} of {}", shown(name), shown(&entry.path)), error)
                })?,
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, target: &[u8], name: &OsStr, directory: &OwnedFd) -> Result<(), Failure> {
        let refuse = |reason: &str| {
            Failure::invalid(format!("entry {}: its link to {} {reason}", shown(&entry.path), shown(target)))
        };
        let names = names(target).map_err(|_| refuse("leads out of the layer's root"))?;
        let Some((last, parents)) = names.split_last() else { return Err(refuse("is to the root")) };
        let from = self.places.directory(parents, false)?.ok_or_else(|| refuse("is to nothing"))?;
        match from.place.copy_up(last).map_err(|error| system(entry, error))? {
            None => Err(refuse("is to nothing")),
            Some(found) if is_directory(&found) => Err(refuse("is to a directory")),
            Some(_) => remove(directory, name)
                .and_then(|()| linkat(&from.place.directory, *last, directory, name, AtFlags::empty()))
                .map_err(|error| system(entry, error)),
        }
    }

    /// Makes a symbolic link, a fifo or a device.
    fn node(&self, entry: &Entry, name: &OsStr, directory: &OwnedFd) -> Result<(), Failure> {
        let made = match &entry.kind {
            Kind::Symlink(target) => symlinkat(target.as_slice(), directory, name),
            Kind::Fifo => mkfifoat(directory, name, Mode::from_bits_truncate(0o600)),
            Kind::CharDevice(0, 0) => {
                let reason = "it is what overlayfs takes for a removed file: a character device 0:0";
                return Err(Failure::invalid(format!("entry {}: {reason}", shown(&entry.path))));
            }
            Kind::CharDevice(major, minor) => {
                return self.device(entry, name, directory, (SFlag::S_IFCHR, *major, *minor));
            }
            Kind::BlockDevice(major, minor) => {
                return self.device(entry, name, directory, (SFlag::S_IFBLK, *major, *minor));
            }
            Kind::File | Kind::Directory | Kind::Hardlink(_) => {
                unreachable!("they have contents or no attributes of their own")
            }
        };
        let finished = made.and_then(|()| self.node_attributes(entry, name, directory));
        finished.map_err(|error| system(entry, error))
    }

    fn device(
        &self,
        entry: &Entry,
        name: &OsStr,
        directory: &OwnedFd,
        (kind, major, minor): (SFlag, u32, u32),
    ) -> Result<(), Failure> {
        if !self.privileged
            || !sys::make_device(directory.as_fd(), name, kind, (major, minor)).map_err(|error| system(entry, error))?
        {
            return Ok(());
        }
        self.node_attributes(entry, name, directory).map_err(|error| system(entry, error))
    }

    fn node_attributes(&self, entry: &Entry, name: &OsStr, directory: &OwnedFd) -> nix::Result<()> {
        if self.privileged {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchownat(directory, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // It was just made here, and is no symbolic link.
            fchmodat(directory, name, mode(entry), FchmodatFlags::FollowSymlink)?;
        }
        utimensat(directory, name, &time(entry), &time(entry), UtimensatFlags::NoFollowSymlink)
    }

    /// Applies a whiteout: removes files of lower layers. Idempotent.
    fn whiteout(&mut self, entry: &Entry, name: &OsStr, parents: &[&OsStr]) -> Result<(), Failure> {
        let failed = |error: Errno| Failure::system(format!("cannot remove what {} names", shown(&entry.path)), error);
        let name = name.as_bytes();
        if name != OPAQUE && name.starts_with(AUFS) {
            return Ok(());
        }
        let removed = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if removed.is_empty() || removed == "." || removed == ".." {
            return Err(Failure::invalid(format!("entry {}: it would remove more than one name", shown(&entry.path))));
        }
        let Some(parent) = self.places.directory(parents, false)? else { return Ok(()) };
        self.places.forget();
        let mut path = parent.path.clone();
        if name == OPAQUE {
            self.hide_lower(&parent.place, &mut path, &failed)
        } else {
            self.hide(&parent.place, &mut path, removed, &failed)
        }
    }

    /// Applies an opaque whiteout: removes files of lower layers from a directory tree, and keeps those of this layer.
    fn hide_lower(&self, place: &Place, path: &mut Vec<Vec<u8>>, failed: Failed<'_>) -> Result<(), Failure> {
        let names = place.names().map_err(failed)?;
        self.places.hide(names.len())?;
        names.iter().try_for_each(|name| self.hide(place, path, name, failed))
    }

    /// Removes an entry of the directory at this path, but not what this layer wrote.
    fn hide(&self, place: &Place, path: &mut Vec<Vec<u8>>, name: &OsStr, failed: Failed<'_>) -> Result<(), Failure> {
        if !self.own.contains(&self.hash(path, name)) {
            return place.hide(name).map_err(failed);
        }
        let Step::Into(inner) = place.step(name).map_err(failed)? else { return Ok(()) };
        path.push(name.as_bytes().to_vec());
        let hidden = self.hide_lower(&inner, path, failed);
        path.pop();
        hidden
    }
}

/// Whether an extended attribute means the same on this node as where the layer was made. overlayfs' own attributes (buildah's
/// layers have some) would change what it shows.
fn is_unpacked(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name.starts_with(b"system.posix_acl_")
        || name == b"security.capability"
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_bits_truncate((entry.mode & 0o7777) as nix::libc::mode_t)
}

fn time(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, entry.mtime.1)
}

fn system(entry: &Entry, error: impl Into<io::Error>) -> Failure {
    Failure::system(format!("cannot unpack {}", shown(&entry.path)), error)
}

fn in_entry(entry: &Entry, trouble: Failure) -> Failure {
    Failure { reason: format!("entry {}: {}", shown(&entry.path), trouble.reason), ..trouble }
}
