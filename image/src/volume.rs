//! Resolves a directory of an image volume. The image is read-only, so its symbolic links can be followed one by one, as a program
//! in the image would: an absolute one starts at the image's root, and none leads out of it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Symbolic links on one path, as in Linux (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Resolves `sub_path` in the image below `root` to a path without symbolic links.
///
/// # Errors
/// [`Error::Invalid`] for a path that leaves the root, [`Error::NotFound`] for a missing one.
pub(crate) fn resolve(root: &Path, sub_path: &Path) -> Result<PathBuf, Error> {
    let refuse =
        |reason: &str| Error::invalid("image volume path", format!("{:?}: {reason}", sub_path.display().to_string()));
    let mut left: Vec<OsString> = components(sub_path).ok_or_else(|| refuse("it must be relative and without .."))?;
    left.reverse();
    let (mut done, mut links) = (Vec::<OsString>::new(), 0);
    while let Some(next) = left.pop() {
        if next == ".." {
            done.pop().ok_or_else(|| refuse("a symbolic link in it leads out of the image"))?;
            continue;
        }
        let path = root.join(done.iter().collect::<PathBuf>()).join(&next);
        let metadata = fs::symlink_metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::not_found(format!("path {:?} in the image", sub_path.display().to_string()))
            }
            _ => Error::io(format!("cannot look at {}", path.display()))(error),
        })?;
        if !metadata.is_symlink() {
            done.push(next);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(refuse("it has more than 40 symbolic links"));
        }
        let target = fs::read_link(&path).map_err(Error::io(format!("cannot read {}", path.display())))?;
        if target.is_absolute() {
            done.clear();
        }
        left.extend(target.components().rev().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        }));
    }
    Ok(root.join(done.iter().collect::<PathBuf>()))
}

/// The components of a relative path; None for an absolute one or one with `..`.
fn components(path: &Path) -> Option<Vec<OsString>> {
    path.components()
        .filter(|component| !matches!(component, Component::CurDir))
        .map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        })
        .collect()
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
        for path in ["a/climbs", "loop", "../x", "/etc", "a/../../x"] {
            assert!(matches!(resolve(root, Path::new(path)), Err(Error::Invalid { .. })), "{path}");
        }
        assert!(matches!(resolve(root, Path::new("a/none")), Err(Error::NotFound { .. })));
    }
}
