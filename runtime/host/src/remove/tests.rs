//! Trees of every kind of file, and what is mounted in them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::remove_dir_all;

#[test]
fn a_tree_goes_and_nothing_beside_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (tree, outside) = (scratch.path().join("tree"), scratch.path().join("outside"));
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    fs::write(tree.join("a/f"), "x").unwrap();
    symlink(&outside, tree.join("a/b/link")).unwrap();
    nix::unistd::mkfifo(&tree.join("a/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::create_dir_all(tree.join("d/".repeat(500))).unwrap();
    remove_dir_all(&tree).unwrap();
    remove_dir_all(&tree).unwrap();
    remove_dir_all(&tree.join("never/was")).unwrap();
    assert!(!tree.exists() && outside.join("precious").exists());
    // A symbolic link is removed itself.
    symlink(&outside, &tree).unwrap();
    remove_dir_all(&tree).unwrap();
    assert!(tree.symlink_metadata().is_err() && outside.join("precious").exists());
    assert_eq!(remove_dir_all(Path::new("/")).unwrap_err().kind(), ErrorKind::InvalidInput);
}
