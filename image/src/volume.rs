//! Resolves the path of an image volume inside the image, as a program with the image as its root would: no link leads out of it.

use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::Error;

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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::resolve;
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
}
