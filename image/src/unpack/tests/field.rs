//! Layers as tools in the field write them (docs/field-cases.md).

use std::fs::File;
use std::os::fd::AsFd;

use super::{Root, Tar, is_root};
use crate::sys;

#[test]
fn attributes_of_overlayfs_are_left_out_and_others_kept() {
    let root = Root::new();
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.origin", b"x"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.kept", b""),
        ])
        .directory("d/", 0o755)
        .file("d/f", "x")
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.user.overlay.metacopy", b"")])
        .file("f", "x");
    root.unpack(&tar);
    assert_eq!((root.read("d/f"), root.read("f")), ("x".to_owned(), "x".to_owned()));
    for name in ["d", "f"] {
        let opened = File::open(root.path(name)).unwrap();
        let attributes = sys::xattrs(opened.as_fd()).unwrap();
        assert!(!attributes.iter().any(|(name, _)| name.to_string_lossy().contains("overlay")), "{attributes:?}");
        // A file system of a test may have no attributes at all.
        assert!(name == "f" || attributes.is_empty() || attributes[0] == ("user.kept".into(), Vec::new()));
    }
}

#[test]
fn empty_pax_records_leave_what_the_header_says() {
    let root = Root::new();
    let empty: Vec<(&str, &[u8])> =
        ["path", "linkpath", "size", "uid", "gid", "mtime", "atime", "uname"].map(|key| (key, &b""[..])).into();
    let tar = Tar::default().pax(&empty).entry("f", tar::EntryType::Regular, b"contents", |header| {
        header.set_uid(7);
        header.set_mtime(5);
    });
    root.unpack(&tar);
    assert_eq!(root.read("f"), "contents");
    let found = root.stat("f");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(found.mtime(), 5);
    assert!(!is_root() || found.uid() == 7);
}
