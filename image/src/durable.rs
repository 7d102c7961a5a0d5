//! Makes files durable: with one call for the file system where there is one, else each file and directory (FreeBSD's sync(2) does
//! not wait for the disk).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::sys;

/// Makes these files and trees durable, which are on the file system of `root`. What vanishes meanwhile is left out. Blocking.
pub(crate) fn sync(root: &Path, paths: impl Iterator<Item = PathBuf>) -> io::Result<()> {
    if sys::sync(File::open(root)?.as_fd())? {
        return Ok(());
    }
    let mut parents = BTreeSet::new();
    for path in paths {
        sync_tree(&path)?;
        parents.extend(path.parent().map(Path::to_owned));
    }
    parents.iter().try_for_each(|parent| File::open(parent)?.sync_all())
}

/// Syncs a tree, each directory after its entries.
fn sync_tree(path: &Path) -> io::Result<()> {
    let synced = fs::symlink_metadata(path).and_then(|metadata| {
        if metadata.is_dir() {
            fs::read_dir(path)?.try_for_each(|entry| sync_tree(&entry?.path()))?;
        }
        // Opening a fifo would wait for its other end; a directory's fsync covers what has no contents.
        if metadata.is_dir() || metadata.is_file() { File::open(path)?.sync_all() } else { Ok(()) }
    });
    match synced {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::{sync, sync_tree};

    #[test]
    fn trees_are_synced_whatever_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::fs::write(root.path().join("d/f"), "x").unwrap();
        std::os::unix::fs::symlink("/nowhere", root.path().join("d/l")).unwrap();
        nix::unistd::mkfifo(&root.path().join("d/p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        sync_tree(root.path()).unwrap();
        sync_tree(&root.path().join("missing")).unwrap();
        sync(root.path(), ["d", "missing"].map(|name| root.path().join(name)).into_iter()).unwrap();
    }
}
