//! Copies and counts directory trees, with all attributes of an image's files.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, copy_file_range};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, geteuid, lseek, mkfifo};

use super::FsUsage;
use crate::{Error, sys};

/// The unit of `st_blocks`, in bytes (stat(2)).
const BLOCK: u64 = 512;
/// Bytes of one copy_file_range(2).
const COPY_CHUNK: usize = 1 << 30;

/// The first copy of each file with several links, by device and inode.
type Links = HashMap<(u64, u64), PathBuf>;

/// Copies the directory tree `from` to `to`, which it creates: contents (shared where the file system clones blocks, with holes),
/// hard links, symbolic links, fifos and device nodes, owners (as root), modes, times and extended attributes. Leaves sockets
/// out: nobody listens on a copy.
///
/// # Errors
/// The first call that fails, with the path. The caller removes a partial copy.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    copy_directory(from, to, &mut Links::new())
}

fn failed(path: &Path) -> String {
    format!("cannot copy {}", path.display())
}

fn copy_directory(from: &Path, to: &Path, links: &mut Links) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(from).map_err(Error::io(failed(from)))?;
    fs::DirBuilder::new().mode(0o700).create(to).map_err(Error::io(failed(to)))?;
    for entry in fs::read_dir(from).map_err(Error::io(failed(from)))? {
        let entry = entry.map_err(Error::io(failed(from)))?;
        copy_entry(&entry.path(), &to.join(entry.file_name()), links)?;
    }
    // Attributes last: without root a read-only directory takes no entries, and new entries change its times.
    let attributes = File::open(from).and_then(|source| copy_xattrs(&source, &File::open(to)?));
    attributes.and_then(|()| copy_attributes(&metadata, to)).map_err(Error::io(failed(from)))
}

fn copy_entry(from: &Path, to: &Path, links: &mut Links) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(from).map_err(Error::io(failed(from)))?;
    if metadata.is_dir() {
        return copy_directory(from, to, links);
    }
    if metadata.nlink() > 1 {
        if let Some(first) = links.get(&(metadata.dev(), metadata.ino())) {
            return fs::hard_link(first, to).map_err(Error::io(failed(from)));
        }
        links.insert((metadata.dev(), metadata.ino()), to.to_owned());
    }
    copy_leaf(from, to, &metadata).map_err(Error::io(failed(from)))
}

fn copy_leaf(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let mode = Mode::from_bits_truncate(0o600);
    if kind.is_file() {
        let source = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(from)?;
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        copy_contents(&source, &target, metadata.len())?;
        copy_xattrs(&source, &target)?;
        return copy_attributes(metadata, to);
    }
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_fifo() {
        mkfifo(to, mode)?;
    } else if kind.is_char_device() {
        mknod(to, SFlag::S_IFCHR, mode, metadata.rdev())?;
    } else if kind.is_block_device() {
        mknod(to, SFlag::S_IFBLK, mode, metadata.rdev())?;
    } else {
        return Ok(());
    }
    copy_attributes(metadata, to)
}

/// Copies the extents that hold data; copy_file_range(2) shares them where the file system can.
pub(crate) fn copy_contents(source: &File, target: &File, length: u64) -> io::Result<()> {
    let end = i64::try_from(length).map_err(io::Error::other)?;
    target.set_len(length)?;
    let mut at = 0;
    while at < end {
        let data = match lseek(source, at, Whence::SeekData) {
            Ok(data) => data,
            Err(nix::Error::ENXIO) => break,
            // The file system has no holes.
            Err(_) => at,
        };
        let hole = lseek(source, data, Whence::SeekHole).unwrap_or(end).min(end);
        copy_range(source, target, (data, hole))?;
        at = hole;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, (mut from, end): (i64, i64)) -> io::Result<()> {
    let mut to = from;
    while from < end {
        let wanted = usize::try_from(end - from).map_or(COPY_CHUNK, |left| left.min(COPY_CHUNK));
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => break,
            Ok(_) => {}
            Err(nix::Error::EXDEV | nix::Error::EINVAL | nix::Error::ENOSYS | nix::Error::EOPNOTSUPP) => {
                return copy_bytes(source, target, (from, end));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_bytes(source: &File, target: &File, (from, end): (i64, i64)) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (mut at, end) = (from.cast_unsigned(), end.cast_unsigned());
    let mut buffer = vec![0; 1 << 16];
    while at < end {
        let wanted = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        match source.read_at(&mut buffer[..wanted], at)? {
            0 => break,
            read => target.write_all_at(&buffer[..read], at)?,
        }
        at += wanted as u64;
    }
    Ok(())
}

/// Copies extended attributes, but those that the kernel or root alone may set.
pub(crate) fn copy_xattrs(source: &File, target: &File) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    for (name, value) in sys::xattrs(source.as_fd())? {
        // The kernel sets the labels of security modules; others may need root.
        match sys::set_xattr(target.as_fd(), name.as_bytes(), &value) {
            Err(error)
                if name.as_bytes() != b"security.capability"
                    && matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Sets owner, mode and times in the order in which none undoes another: chown(2) clears setuid bits. File capabilities follow
/// with the extended attributes.
pub(super) fn copy_attributes(metadata: &Metadata, to: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        let capability = keep_capability(metadata, to)?;
        lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        if let Some(value) = capability {
            sys::set_xattr(File::open(to)?.as_fd(), b"security.capability", &value)?;
        }
    }
    if !metadata.is_symlink() {
        fs::set_permissions(to, metadata.permissions())?;
    }
    let time = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    let accessed = time(metadata.atime(), metadata.atime_nsec());
    let modified = time(metadata.mtime(), metadata.mtime_nsec());
    utimensat(AT_FDCWD, to, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

/// Restores file capabilities, which chown(2) clears.
fn keep_capability(metadata: &Metadata, to: &Path) -> io::Result<Option<Vec<u8>>> {
    if !metadata.is_file() {
        return Ok(None);
    }
    let attributes = sys::xattrs(File::open(to)?.as_fd())?;
    Ok(attributes.into_iter().find(|(name, _)| name == "security.capability").map(|(_, value)| value))
}

/// Usage of a tree on its file system: a file with several links counts once, and mounts in the tree (volumes) do not count.
///
/// # Errors
/// A directory that cannot be read. Entries that vanish meanwhile are not counted.
pub(crate) fn usage(root: &Path) -> Result<FsUsage, Error> {
    let mut sum = FsUsage::default();
    let mut seen = std::collections::HashSet::new();
    let mut left = vec![root.to_owned()];
    let failed = |path: &Path| format!("cannot count what {} holds", path.display());
    let mut device = None;
    while let Some(path) = left.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(failed(&path))(error)),
        };
        if *device.get_or_insert(metadata.dev()) != metadata.dev() {
            continue;
        }
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        sum.bytes += metadata.blocks() * BLOCK;
        sum.inodes += 1;
        if metadata.is_dir() {
            match fs::read_dir(&path) {
                Ok(entries) => left.extend(entries.flatten().map(|entry| entry.path())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(failed(&path))(error)),
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use nix::sys::stat::Mode;

    use super::{copy, usage};

    #[test]
    fn a_copy_is_like_its_original() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        fs::create_dir_all(from.join("d/e")).unwrap();
        let file = fs::File::create(from.join("d/f")).unwrap();
        file.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"tail", (1 << 20) - 4).unwrap();
        fs::hard_link(from.join("d/f"), from.join("g")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        nix::unistd::mkfifo(&from.join("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
        fs::set_permissions(from.join("g"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o1750)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789)).unwrap();
        copy(&from, &to).unwrap();
        let (original, copied) = (fs::metadata(from.join("g")).unwrap(), fs::metadata(to.join("g")).unwrap());
        assert_eq!(fs::read(to.join("d/f")).unwrap(), fs::read(from.join("d/f")).unwrap());
        assert_eq!(copied.ino(), fs::metadata(to.join("d/f")).unwrap().ino());
        assert_eq!((copied.mode(), copied.mtime_nsec()), (original.mode(), 123_456_789));
        assert_eq!(copied.mode() & 0o7777, 0o4711);
        assert_eq!(fs::metadata(to.join("d")).unwrap().mode() & 0o7777, 0o1750);
        assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/nowhere"));
        assert!(copied.blocks() < 1024, "the hole was kept");
        let (left, right) = (usage(&from).unwrap(), usage(&to).unwrap());
        assert_eq!((left.inodes, right.inodes), (6, 6));
    }
}
