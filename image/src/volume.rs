//! Volumes of containers: the path of an image volume, resolved inside the image as a program with the image as its root would, so
//! that no link leads out of it; and the directories that an image declares as volumes, of which each container has its own.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::rootfs::{make_root, tree};
use crate::{Digest, Error};

/// The declared volumes, in a container's directory.
const DECLARED: &str = "declared";

/// Resolves `sub_path` in the image below `root` to a path without symbolic links.
///
/// # Errors
/// [`Error::Invalid`] for an absolute path, one with `..` and one with too many links; [`Error::NotFound`] for a missing one.
pub(crate) fn resolve(root: &Path, sub_path: &Path) -> Result<PathBuf, Error> {
    let shown = sub_path.display().to_string();
    let refuse = |reason: &str| Error::invalid("image volume path", format!("{shown:?}: {reason}"));
    let inside = |component: Component| matches!(component, Component::CurDir | Component::Normal(_));
    if !sub_path.components().all(inside) {
        return Err(refuse("it must be relative and without .."));
    }
    let opened = host::root::open(root).map_err(Error::io(format!("cannot open {}", root.display())))?;
    let resolved = host::root::resolve(&opened, sub_path, None).map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => Error::not_found(format!("path {shown:?} in the image")),
            Some(Errno::ELOOP) => refuse("it has too many symbolic links"),
            Some(Errno::ENAMETOOLONG) => refuse("it is nested too deep"),
            _ => Error::io(format!("cannot resolve {shown:?} below {}", root.display()))(error),
        }
    })?;
    Ok(root.join(resolved.path))
}

/// Makes a container's own directory for a path that its image declares as a volume, with the contents and the attributes that
/// the path has in the root; where it does not exist, an empty directory of root. `directory` is the container's. Idempotent.
///
/// # Errors
/// [`Error::Invalid`] for a path that is no directory or has too many links; the disk.
pub(crate) fn declare(directory: &Path, root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let shown = path.display().to_string();
    let refuse = |reason: &str| Error::invalid("volume of the image", format!("{shown:?}: {reason}"));
    let all = directory.join(DECLARED);
    let made = all.join(Digest::of(shown.as_bytes()).hex());
    let begun = made.with_extension("begun");
    if made.is_dir() {
        return Ok(made);
    }
    fs::create_dir_all(&all).map_err(Error::io(format!("cannot create {}", all.display())))?;
    host::fs::remove_dir_all(&begun).map_err(Error::io(format!("cannot remove {}", begun.display())))?;
    let opened = host::root::open(root).map_err(Error::io(format!("cannot open {}", root.display())))?;
    match host::root::resolve(&opened, path, None) {
        Ok(found) if found.directory => tree::copy(&root.join(found.path), &begun)?,
        Ok(_) => return Err(refuse("it is no directory")),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => make_root(&begun)?,
            Some(Errno::ENOTDIR) => return Err(refuse("a file stands in its way")),
            Some(Errno::ELOOP) => return Err(refuse("it has too many symbolic links")),
            Some(Errno::ENAMETOOLONG) => return Err(refuse("it is nested too deep")),
            _ => return Err(Error::io(format!("cannot resolve {shown:?} below {}", root.display()))(error)),
        },
    }
    fs::rename(&begun, &made).map_err(Error::io(format!("cannot create {}", made.display())))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{declare, resolve};
    use crate::Error;

    #[test]
    fn links_are_followed_inside_the_image_only() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("/a", root.join("absolute")).unwrap();
        symlink("a/./b", root.join("relative")).unwrap();
        symlink("../../../../etc", root.join("a/climbs")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, expected) in [("", ""), (".", ""), ("a/b", "a/b"), ("absolute/b", "a/b"), ("relative", "a/b")] {
            assert_eq!(resolve(root, Path::new(path)).unwrap(), root.join(expected), "{path}");
        }
        for path in ["loop", "../x", "/etc", "a/../../x"] {
            assert!(matches!(resolve(root, Path::new(path)), Err(Error::Invalid { .. })), "{path}");
        }
        for path in ["a/none", "a/climbs"] {
            assert!(matches!(resolve(root, Path::new(path)), Err(Error::NotFound { .. })), "{path}");
        }
        std::fs::create_dir(root.join("etc")).unwrap();
        assert_eq!(resolve(root, Path::new("a/climbs")).unwrap(), root.join("etc"));
    }

    #[test]
    fn a_declared_volume_has_what_the_image_has_there() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let (own, root) = (scratch.path().join("own"), scratch.path().join("root"));
        std::fs::create_dir_all(root.join("run/data/sub")).unwrap();
        std::fs::write(root.join("run/data/sub/f"), "x").unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        std::fs::set_permissions(root.join("run/data"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/run", root.join("var")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let made = declare(&own, &root, Path::new("/var/data")).unwrap();
        assert_eq!(std::fs::read_to_string(made.join("sub/f")).unwrap(), "x");
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o1777);
        std::fs::write(made.join("new"), "y").unwrap();
        assert_eq!(declare(&own, &root, Path::new("/var/data")).unwrap(), made);
        assert!(made.join("new").exists() && !root.join("run/data/new").exists());
        let missing = declare(&own, &root, Path::new("/not/there")).unwrap();
        assert!(missing != made && std::fs::read_dir(missing).unwrap().next().is_none());
        for path in ["/file", "/file/below", "/loop"] {
            assert!(matches!(declare(&own, &root, Path::new(path)), Err(Error::Invalid { .. })), "{path}");
        }
    }
}
