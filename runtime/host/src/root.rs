//! Paths as a container sees them, resolved inside its root by descriptors, one component at a time: this code reads and
//! follows the symbolic links, an absolute one from the root again; the kernel follows none. So neither a hostile image nor a
//! shared volume leads a mount or a file of ours out of the root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};

/// The limit on symbolic links in one path, as the kernel's MAXSYMLINKS.
const LINK_LIMIT: usize = 32;
/// The limit on components of a path: each directory on the way is an open descriptor.
const DEPTH_LIMIT: usize = 512;

/// The kind of file to create at the end of a path if nothing exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// A resolved path.
#[derive(Debug)]
pub struct Resolved {
    /// The path from the root, without symbolic links.
    pub path: PathBuf,
    /// The file, opened with O_PATH unless it is a directory.
    pub file: OwnedFd,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Opens a root.
///
/// # Errors
/// Any error of open(2).
pub fn open(root: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(root, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Resolves a path inside a root. With `create`, makes what does not exist: directories on the way, and its kind at the end.
///
/// # Errors
/// ENOENT without `create`; ELOOP; ENAMETOOLONG for more than 512 components; ENOTDIR where a file stands in the way; any
/// error of the kernel.
pub fn resolve(root: &OwnedFd, path: &Path, create: Option<Kind>) -> io::Result<Resolved> {
    let mut ahead: VecDeque<OsString> = components(path);
    let mut way: Vec<(OsString, OwnedFd)> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if way.len() + ahead.len() >= DEPTH_LIMIT {
            return Err(Errno::ENAMETOOLONG.into());
        }
        if name == ".." {
            way.pop();
            continue;
        }
        let here = way.last().map_or(root, |(_, directory)| directory);
        let kind = match kind_of(here, &name) {
            Err(Errno::ENOENT) if create.is_some() => {
                let wanted = if ahead.is_empty() { create } else { Some(Kind::Directory) };
                make(here, &name, wanted.unwrap_or(Kind::Directory))?;
                kind_of(here, &name)?
            }
            other => other?,
        };
        if kind == SFlag::S_IFLNK {
            links += 1;
            if links > LINK_LIMIT {
                return Err(Errno::ELOOP.into());
            }
            let target = readlinkat(here.as_fd(), name.as_os_str())?;
            if target.as_bytes().starts_with(b"/") {
                way.clear();
            }
            let rest = std::mem::take(&mut ahead);
            ahead = components(Path::new(&target));
            ahead.extend(rest);
            continue;
        }
        if kind == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let directory = openat(here.as_fd(), name.as_os_str(), flags, Mode::empty())?;
            way.push((name, directory));
            continue;
        }
        if !ahead.is_empty() {
            return Err(Errno::ENOTDIR.into());
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(here.as_fd(), name.as_os_str(), flags, Mode::empty())?;
        let mut path: PathBuf = way.iter().map(|(name, _)| name).collect();
        path.push(name);
        return Ok(Resolved { path, file, directory: false });
    }
    let path = way.iter().map(|(name, _)| name).collect();
    let file = match way.pop() {
        Some((_, directory)) => directory,
        None => root.try_clone()?,
    };
    Ok(Resolved { path, file, directory: true })
}

/// The text of a file below a root, at most `limit` bytes; empty if there is no such file. Never blocks, on any kind of file.
///
/// # Errors
/// Any error of the kernel, unless the path leads nowhere.
pub fn read_text(root: &OwnedFd, path: &Path, limit: u64) -> io::Result<String> {
    let Some(file) = open_file(root, path)? else { return Ok(String::new()) };
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn open_file(root: &OwnedFd, path: &Path) -> io::Result<Option<File>> {
    let leads_nowhere =
        |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP));
    let found = match resolve(root, path, None) {
        Err(error) if leads_nowhere(&error) => return Ok(None),
        found => found?,
    };
    let (Some(name), false) = (found.path.file_name(), found.directory) else { return Ok(None) };
    let parent = resolve(root, found.path.parent().unwrap_or(Path::new("")), None)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat(parent.file.as_fd(), name, flags, Mode::empty())?);
    Ok(file.metadata()?.is_file().then_some(file))
}

fn components(path: &Path) -> VecDeque<OsString> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    parts.filter(|part| !matches!(*part, b"" | b".")).map(|part| OsStr::from_bytes(part).to_owned()).collect()
}

fn kind_of(directory: &OwnedFd, name: &OsStr) -> Result<SFlag, Errno> {
    let status = fstatat(directory.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT)
}

fn make(directory: &OwnedFd, name: &OsStr, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::Directory => mkdirat(directory.as_fd(), name, Mode::from_bits_truncate(0o755))?,
        Kind::File => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            drop(openat(directory.as_fd(), name, flags, Mode::from_bits_truncate(0o644))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Kind, open, read_text, resolve};

    /// A root with symbolic links of a hostile image, beside a directory of the host.
    fn hostile() -> (tempfile::TempDir, std::os::fd::OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("real/below")).unwrap();
        fs::create_dir(directory.path().join("host")).unwrap();
        fs::write(directory.path().join("host/secret"), "secret").unwrap();
        symlink(directory.path().join("host"), root.join("absolute")).unwrap();
        symlink("../../../../../../host", root.join("relative")).unwrap();
        symlink("../host", root.join("real/up")).unwrap();
        symlink("/real", root.join("inside")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        fs::write(root.join("file"), "here").unwrap();
        let opened = open(&root).unwrap();
        (directory, opened)
    }

    #[test]
    fn no_path_leaves_the_root() {
        let (directory, root) = hostile();
        let cases = [
            ("/inside/below/new", "real/below/new"),
            ("/../../etc", "etc"),
            ("/relative/x", "host/x"),
            ("/real/up/y", "host/y"),
            ("/real/./below/../below", "real/below"),
        ];
        for (path, wanted) in cases {
            let found = resolve(&root, Path::new(path), Some(Kind::Directory)).unwrap();
            assert_eq!(found.path, Path::new(wanted), "{path}");
            assert!(directory.path().join("root").join(wanted).is_dir(), "{path}");
        }
        let absolute = resolve(&root, Path::new("/absolute/z"), Some(Kind::File)).unwrap();
        assert!(directory.path().join("root").join(&absolute.path).is_file());
        let host: Vec<_> = fs::read_dir(directory.path().join("host")).unwrap().collect();
        assert_eq!(host.len(), 1, "nothing was made on the host");
    }

    #[test]
    fn what_cannot_be_resolved_is_an_error() {
        let (_directory, root) = hostile();
        let code = |path: &str, create| resolve(&root, Path::new(path), create).unwrap_err().raw_os_error();
        assert_eq!(code("/loop", None), Some(libc::ELOOP));
        assert_eq!(code("/file/x", Some(Kind::File)), Some(libc::ENOTDIR));
        assert_eq!(code("/missing", None), Some(libc::ENOENT));
        assert_eq!(code(&"d/".repeat(513), Some(Kind::Directory)), Some(libc::ENAMETOOLONG));
    }

    #[test]
    fn a_file_is_read_inside_the_root_only() {
        let (directory, root) = hostile();
        let text = |path: &str| read_text(&root, Path::new(path), 3).unwrap();
        assert_eq!(text("/file"), "her");
        nix::unistd::mkfifo(&directory.path().join("root/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in ["/absolute/secret", "/relative/secret", "/real", "/missing", "/file/x", "/loop", "/fifo"] {
            assert_eq!(text(path), "", "{path}");
        }
    }
}
