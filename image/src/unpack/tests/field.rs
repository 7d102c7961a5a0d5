//! Layers as tools in the field write them (docs/field-cases.md).

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tar::EntryType;

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
    let tar = Tar::default().pax(&empty).entry("f", EntryType::Regular, b"contents", |header| {
        header.set_uid(7);
        header.set_mtime(5);
    });
    root.unpack(&tar);
    assert_eq!(root.read("f"), "contents");
    let found = root.stat("f");
    assert_eq!(found.mtime(), 5);
    assert!(!is_root() || found.uid() == 7);
}

#[test]
fn a_hard_link_needs_no_entry_of_its_directory() {
    let root = Root::new();
    root.unpack(&Tar::default().file("bin/app", "x").hard_link("bin/app.runfiles/_main/app_/app", "bin/app"));
    assert_eq!(root.read("bin/app.runfiles/_main/app_/app"), "x");
    assert_eq!(root.stat("bin/app").nlink(), 2);
}

#[test]
fn a_whiteout_is_one_whatever_its_type() {
    let root = Root::new();
    root.unpack(&Tar::default().file("tmp/key", "x").file("tmp/repo", "x").file("other/f", "x"));
    // A hard link to a file of a lower layer, and a symbolic link.
    root.unpack(&Tar::default().hard_link("tmp/.wh.key", "tmp/repo").symlink("other/.wh.f", "nowhere"));
    assert!(!root.has("tmp/key") && !root.has("other/f") && !root.has("tmp/.wh.key") && root.has("tmp/repo"));
}

#[test]
fn a_whiteout_takes_a_whole_tree() {
    let root = Root::new();
    root.unpack(&Tar::default().file("tmp/patch/etc/s6/init/deep/f", "x").directory("tmp/patch/empty/", 0o000));
    root.unpack(&Tar::default().entry("tmp/.wh.patch", EntryType::Regular, b"", |_| {}));
    assert!(!root.has("tmp/patch") && root.has("tmp"));
}

#[test]
fn an_opaque_directory_keeps_what_its_own_layer_brings_over_lower_links() {
    let root = Root::new();
    root.unpack(
        &Tar::default().symlink("doc/curl/NEWS", "../lower").file("doc/curl/old", "x").symlink("doc/ca", "/etc"),
    );
    let upper = Tar::default()
        .directory("doc/curl/", 0o755)
        .entry("doc/curl/.wh..wh..opq", EntryType::Regular, b"", |_| {})
        .symlink("doc/curl/NEWS", "../upper")
        .directory("doc/ca/", 0o755)
        .file("doc/ca/f", "x");
    root.unpack(&upper);
    assert_eq!(std::fs::read_link(root.path("doc/curl/NEWS")).unwrap().to_str(), Some("../upper"));
    assert!(!root.has("doc/curl/old") && root.stat("doc/ca").is_dir() && root.has("doc/ca/f"));
}

#[test]
fn labels_of_another_machine_are_left_out() {
    let root = Root::new();
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.selinux", b"u:object_r:vendor_file:s0\0"),
            ("SCHILY.xattr.security.ima", b"\x04\x04"),
            ("SCHILY.xattr.trusted.something", b"x"),
            ("LIBARCHIVE.xattr.security.selinux", b"eA=="),
        ])
        .directory("vendor/", 0o755)
        .file("vendor/f", "x");
    root.unpack(&tar);
    assert_eq!(root.read("vendor/f"), "x");
}

#[test]
fn a_name_in_any_bytes_is_kept() {
    let root = Root::new();
    root.unpack(&Tar::default().pax(&[("path", "ünïcode/\u{1f40b} a\nb".as_bytes())]).file("x", "x"));
    assert_eq!(root.read("ünïcode/\u{1f40b} a\nb"), "x");
}

#[test]
fn owners_of_any_size_are_kept() {
    let root = Root::new();
    let tar = Tar::default().pax(&[("uid", b"1516583083"), ("gid", b"1000640000")]).file("pax", "x").entry(
        "binary",
        EntryType::Regular,
        b"x",
        |header| header.set_uid(3_000_000_000),
    );
    root.unpack(&tar);
    assert!(!is_root() || (root.stat("pax").uid(), root.stat("pax").gid()) == (1_516_583_083, 1_000_640_000));
    assert!(!is_root() || root.stat("binary").uid() == 3_000_000_000);
}
