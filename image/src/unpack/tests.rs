//! Layers, good ones and hostile ones, unpacked into a directory of their own. As root, owners and devices are looked at too.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

mod field;
#[cfg(target_os = "linux")]
mod stacked;

use super::{Failure, Refusal, Unpacked, unpack};
use crate::{Digest, sys};

/// Builds archives entry by entry, whatever they say.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, name: &str, kind: EntryType, contents: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(contents.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(contents)
    }

    fn data(mut self, contents: &[u8]) -> Self {
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, contents: &str) -> Self {
        self.entry(name, EntryType::Regular, contents.as_bytes(), |_| {})
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(name, EntryType::Directory, b"", |header| header.set_mode(mode))
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.entry(name, kind, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let record = |(key, value): &(&str, &[u8])| {
            let rest = key.len() + value.len() + 3;
            let length =
                (1..8).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length).unwrap();
            [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
        };
        let contents: Vec<u8> = records.iter().flat_map(record).collect();
        self.entry("pax", EntryType::XHeader, &contents, |_| {})
    }
}

/// A directory to unpack into, with another beside it that nobody may touch.
struct Root {
    scratch: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("root")).unwrap();
        fs::create_dir(scratch.path().join("outside")).unwrap();
        fs::write(scratch.path().join("outside/precious"), "precious").unwrap();
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("root").join(name)
    }

    fn apply(&self, tar: &Tar) -> Result<Unpacked, Failure> {
        let directory: OwnedFd = File::open(self.path("")).unwrap().into();
        let outcome = unpack(&tar.0[..], 0, directory, None);
        let outside: Vec<_> = fs::read_dir(self.scratch.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "something was made outside of the root");
        assert_eq!(fs::read(self.scratch.path().join("outside/precious")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(self.scratch.path()).unwrap().count(), 2);
        outcome
    }

    fn unpack(&self, tar: &Tar) -> Unpacked {
        self.apply(tar).unwrap()
    }

    fn refuses(&self, tar: &Tar, reason: &str) {
        let trouble = self.apply(tar).unwrap_err();
        assert_eq!(trouble.refusal, Refusal::Invalid, "{trouble}");
        assert!(trouble.reason.contains(reason), "{trouble} lacks {reason}");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn stat(&self, name: &str) -> Metadata {
        fs::symlink_metadata(self.path(name)).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn every_kind_of_entry_is_unpacked() {
    let root = Root::new();
    let tar = Tar::default()
        .directory("./", 0o755)
        .directory("d/", 0o1777)
        .file("d/f", "contents")
        .entry("d/setuid", EntryType::Regular, b"x", |header| header.set_mode(0o4755))
        .hard_link("d/hard", "d/f")
        .symlink("d/soft", "/etc/passwd")
        .entry("fifo", EntryType::Fifo, b"", |_| {})
        .file("/absolute", "in the root")
        .file("./dotted//name", "in the root")
        .entry("owned", EntryType::Regular, b"x", |header| {
            header.set_uid(1234);
            header.set_gid(4321);
            header.set_mode(0o2750);
        });
    let unpacked = root.unpack(&tar);
    assert_eq!((unpacked.diff_id, unpacked.entries), (Digest::of(&tar.0), 10));
    assert_eq!((root.read("d/f").as_str(), root.read("absolute").as_str()), ("contents", "in the root"));
    assert_eq!(root.stat("d").mode() & 0o7777, 0o1777);
    assert_eq!(root.stat("d/setuid").mode() & 0o7777, 0o4755);
    assert_eq!(root.stat("d/hard").ino(), root.stat("d/f").ino());
    assert_eq!(fs::read_link(root.path("d/soft")).unwrap(), Path::new("/etc/passwd"));
    assert!(root.stat("fifo").file_type().is_fifo());
    for name in ["", "d", "d/f", "d/soft", "fifo"] {
        assert!(name.is_empty() || root.stat(name).mtime() == 1_000_000_000, "{name}");
    }
    if is_root() {
        let owned = root.stat("owned");
        assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1234, 4321, 0o2750));
    }
}

#[test]
fn pax_headers_say_what_ustar_cannot() {
    let root = Root::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let tar = Tar::default()
        .pax(&[("path", long.as_bytes()), ("mtime", b"1234567890.123456789"), ("SCHILY.xattr.user.note", b"a\0b")])
        .file("short", "contents")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("soft", "short");
    root.unpack(&tar);
    let file = File::open(root.path(&long)).unwrap();
    assert_eq!(root.read(&long), "contents");
    assert_eq!((root.stat(&long).mtime(), root.stat(&long).mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(fs::read_link(root.path("soft")).unwrap(), Path::new(&long));
    // Temporary directories may be on a file system without extended attributes.
    let note = sys::xattrs(file.as_fd()).unwrap().into_iter().find(|(name, _)| name == "user.note");
    assert!(note.is_none_or(|(_, value)| value == b"a\0b"));
}

#[test]
fn long_names_of_gnu_are_read() {
    let root = Root::new();
    let (name, target) = ("n".repeat(150), "t".repeat(150));
    let tar = Tar::default()
        .entry("././@LongLink", EntryType::GNULongLink, format!("{target}\0").as_bytes(), |_| {})
        .entry("././@LongLink", EntryType::GNULongName, format!("{name}\0").as_bytes(), |_| {})
        .symlink("short", "short");
    root.unpack(&tar);
    assert_eq!(fs::read_link(root.path(&name)).unwrap(), Path::new(&target));
}

#[test]
fn sparse_files_have_their_holes() {
    let root = Root::new();
    let old = Tar::default().entry("old", EntryType::GNUSparse, b"headtail", |header| {
        let gnu = header.as_gnu_mut().unwrap();
        let octal = |field: &mut [u8; 12], number: u64| field.copy_from_slice(format!("{number:011o}\0").as_bytes());
        octal(&mut gnu.sparse[0].offset, 0);
        octal(&mut gnu.sparse[0].numbytes, 4);
        octal(&mut gnu.sparse[1].offset, 1 << 20);
        octal(&mut gnu.sparse[1].numbytes, 4);
        octal(&mut gnu.realsize, (1 << 20) + 10);
    });
    let map = b"2\n0\n4\n1048576\n4\n";
    let data = [&map[..], &vec![0; 512 - map.len()], b"headtail"].concat();
    let new = old
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"new"),
            ("GNU.sparse.realsize", b"1048586"),
        ])
        .entry("GNUSparseFile.0/new", EntryType::Regular, &data, |_| {})
        .pax(&[("GNU.sparse.map", b"0,4,1048576,4"), ("GNU.sparse.size", b"1048586"), ("GNU.sparse.name", b"middle")])
        .entry("GNUSparseFile.0/middle", EntryType::Regular, b"headtail", |_| {})
        .file("after", "x");
    root.unpack(&new);
    for name in ["old", "new", "middle"] {
        let contents = fs::read(root.path(name)).unwrap();
        assert_eq!(contents.len(), (1 << 20) + 10, "{name}");
        assert_eq!((&contents[..4], &contents[1 << 20..(1 << 20) + 4]), (&b"head"[..], &b"tail"[..]), "{name}");
        assert!(root.stat(name).blocks() < 1024, "{name} has a hole");
    }
    assert!(root.has("after"));
}

#[test]
fn whiteouts_remove_what_lower_layers_brought() {
    let root = Root::new();
    let lower = ["a/f", "a/d/deep/f", "b/keep", "b/gone", "b/d/gone", "b/d/own", "c"];
    root.unpack(&lower.iter().fold(Tar::default(), |tar, name| tar.file(name, "lower")));
    let upper = Tar::default()
        .file("a/.wh.d", "")
        .file("b/own", "upper")
        .file("b/d/own", "upper")
        .file("b/.wh..wh..opq", "")
        .file(".wh.c", "")
        .file("c", "upper")
        .file(".wh.never", "")
        .file("none/.wh.x", "")
        .file(".wh..wh.plnk", "");
    root.unpack(&upper);
    assert!(root.has("a/f") && !root.has("a/d") && !root.has("none"));
    assert!(!root.has("b/keep") && !root.has("b/gone") && !root.has("b/d/gone"), "an opaque directory hides all below");
    assert_eq!(
        (root.read("b/own").as_str(), root.read("b/d/own").as_str(), root.read("c").as_str()),
        ("upper", "upper", "upper")
    );
    assert!(!root.has(".wh..wh.plnk"));
}

#[test]
fn whiteouts_leave_what_their_own_layer_brought_in_whichever_order_the_entries_come() {
    let lower = ["k/f", "k/g", "d/low", "d/e/low", "usr/bin/a", "usr/bin/b", "target"];
    let lower = lower.iter().fold(Tar::default(), |tar, name| tar.file(name, "lower")).symlink("bin", "usr/bin");
    type Part = fn(Tar) -> Tar;
    // What a layer writes, what it hides, and what must be there and what not.
    let table: [(Part, Part, &[&str], &[&str]); 9] = [
        (|tar| tar.file("k/f", "x"), |tar| tar.file("k/.wh.f", ""), &["k/f", "k/g"], &[]),
        (|tar| tar.file("k/f", "x"), |tar| tar.file(".wh.k", ""), &["k/f"], &["k/g"]),
        (|tar| tar.file("k/f", "x"), |tar| tar.file("k/.wh..wh..opq", ""), &["k/f"], &["k/g"]),
        // A directory that no entry is for: made for what is in it.
        (|tar| tar.file("n/m/f", "x"), |tar| tar.file("n/.wh.m", "").file(".wh.n", ""), &["n/m/f"], &[]),
        (|tar| tar.directory("d/e/", 0o755), |tar| tar.file("d/.wh.e", ""), &["d/e", "d/low"], &["d/e/low"]),
        // One file by two ways: a symbolic link leads to its directory.
        (|tar| tar.file("bin/a", "x"), |tar| tar.file("usr/bin/.wh.a", ""), &["usr/bin/a", "usr/bin/b"], &[]),
        (
            |tar| tar.file("usr/bin/a", "x"),
            |tar| tar.file("bin/.wh..wh..opq", ""),
            &["usr/bin/a", "bin"],
            &["usr/bin/b"],
        ),
        (|tar| tar.file("bin/a", "x"), |tar| tar.file(".wh..wh..opq", ""), &["usr/bin/a"], &["usr/bin/b", "bin", "k"]),
        (|tar| tar.symlink("k", "d"), |tar| tar.file(".wh.k", ""), &["k", "d/low"], &[]),
    ];
    for (at, (write, hide, there, gone)) in table.into_iter().enumerate() {
        for upper in [hide(write(Tar::default())), write(hide(Tar::default()))] {
            // The root's own links are gone before what is written through them when the whiteout comes first.
            if at == 7 && upper.0 != hide(write(Tar::default())).0 {
                continue;
            }
            let root = Root::new();
            root.unpack(&lower);
            root.unpack(&upper);
            assert!(there.iter().all(|name| root.has(name)), "{at}: {there:?}");
            assert!(!gone.iter().any(|name| root.has(name)), "{at}: {gone:?}");
        }
    }
    // A hard link is this layer's, the file that it is to the lower one's.
    let root = Root::new();
    root.unpack(&lower);
    root.unpack(&Tar::default().hard_link("linked", "target").file(".wh.target", ""));
    assert!(root.has("linked") && !root.has("target"));
    // What a whiteout names is gone already where this layer put something else in the place of its directory.
    root.unpack(&Tar::default().file("k", "x").file("k/.wh.f", "").file("k/.wh..wh..opq", ""));
    assert_eq!(root.read("k"), "x");
}

#[test]
fn an_entry_replaces_what_stands_there() {
    let root = Root::new();
    root.unpack(
        &Tar::default()
            .file("f", "old")
            .file("d/x", "old")
            .symlink("s", "d")
            .hard_link("h", "f")
            .directory("kept/", 0o700)
            .file("kept/x", "x"),
    );
    let upper = Tar::default()
        .directory("f/", 0o755)
        .file("d", "new")
        .file("s", "new")
        .file("h", "new")
        .directory("kept/", 0o755);
    root.unpack(&upper);
    assert!(root.stat("f").is_dir() && root.stat("d").is_file() && root.stat("s").is_file());
    assert!(root.has("kept/x"), "a directory that is there already keeps what is in it");
    assert_eq!(root.stat("kept").mode() & 0o777, 0o755);
}

#[test]
fn symbolic_links_are_followed_inside_the_root_only() {
    let root = Root::new();
    let outside = root.scratch.path().join("outside").display().to_string();
    let tar = Tar::default()
        .symlink("absolute", "/usr")
        .symlink("out", &outside)
        .directory("usr/", 0o755)
        .symlink("usr/up", "../usr/./")
        .file("absolute/one", "1")
        .file("usr/up/two", "2")
        .file("out/precious", "overwritten?")
        .hard_link("linked", "absolute/one");
    root.unpack(&tar);
    assert_eq!((root.read("usr/one").as_str(), root.read("usr/two").as_str()), ("1", "2"));
    assert_eq!(root.stat("linked").ino(), root.stat("usr/one").ino());
    assert!(root.has(outside.trim_start_matches('/')), "the path is one in the image");
}

#[test]
fn what_would_leave_the_root_is_refused_by_name() {
    let up = "a/../../outside/precious";
    let table = [
        (Tar::default().file("../outside/new", "x"), "../outside/new"),
        (Tar::default().file(up, "x"), up),
        (Tar::default().file("..", "x"), "\"..\""),
        (Tar::default().directory("../outside/d", 0o755), "../outside/d"),
        (Tar::default().hard_link("stolen", "../outside/precious"), "../outside/precious"),
        (Tar::default().hard_link("stolen", "/../outside/precious"), "/../outside/precious"),
        (Tar::default().symlink("s", "../outside").file("s/new", "x"), "out of the layer's root"),
        (Tar::default().symlink("s", "..").hard_link("stolen", "s/outside/precious"), "out of the layer's root"),
        (Tar::default().symlink("s", "../outside").file("s/.wh.precious", ""), "out of the layer's root"),
        (Tar::default().symlink("s", "../outside").file("s/.wh..wh..opq", ""), "out of the layer's root"),
        (Tar::default().directory("d/", 0o755).file("d/.wh...", ""), "more than one name"),
        (Tar::default().directory("d/", 0o755).file("d/.wh..", ""), "more than one name"),
        (Tar::default().directory("d/", 0o755).file("d/.wh.", ""), "more than one name"),
        (Tar::default().file(".wh.x/../../outside/precious", ""), "out of the layer's root"),
        (Tar::default().pax(&[("path", b"../outside/new")]).file("x", "x"), "../outside/new"),
        (Tar::default().pax(&[("path", b"a\0/../x")]).file("x", "x"), "NUL"),
    ];
    for (tar, reason) in table {
        Root::new().refuses(&tar, reason);
    }
}

#[test]
fn a_link_that_is_swapped_between_entries_leads_nowhere_else() {
    let root = Root::new();
    let outside = root.scratch.path().join("outside");
    // The first entry makes the walk remember `d`; the second swaps it for a link to the outside.
    let tar = Tar::default().directory("d/", 0o755).file("d/a", "x").symlink("d", "../outside").file("d/b", "x");
    root.refuses(&tar, "out of the layer's root");
    // A lower layer, or a former attempt, left a link that leads out.
    let root = Root::new();
    symlink(&outside, root.path("left")).unwrap();
    let trouble = root.apply(&Tar::default().file("left/precious", "x").directory("left/", 0o700));
    assert!(trouble.is_ok(), "it is followed inside: {trouble:?}");
    assert!(root.stat("left").is_dir());
    // Nor does the time of a directory that a link has replaced.
    let dated = |tar: Tar, name, time| tar.entry(name, EntryType::Directory, b"", |header| header.set_mtime(time));
    root.unpack(&dated(dated(Tar::default(), "e/", 1), "d/", 2).symlink("d", "e"));
    assert_eq!(root.stat("e").mtime(), 1);
}

#[test]
fn malformed_archives_are_refused() {
    let good = Tar::default().file("f", &"x".repeat(2000));
    let cut = |length: usize| Tar(good.0[..length].to_vec());
    let mut damaged = Tar(good.0.clone());
    damaged.0[0] ^= 1;
    let size = |size: u64| Tar::default().entry("f", EntryType::Regular, b"", move |header| header.set_size(size));
    let sparse = Tar::default().entry("f", EntryType::GNUSparse, b"", |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].offset.copy_from_slice(b"77777777777\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
        gnu.realsize.copy_from_slice(b"00000000001\0");
    });
    let deep = "d/".repeat(600);
    let long = "x".repeat(5000);
    let xattrs: Vec<(String, &[u8])> = (0..200).map(|n| (format!("SCHILY.xattr.user.{n}"), &b"x"[..])).collect();
    let xattrs: Vec<(&str, &[u8])> = xattrs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let table = [
        (cut(100), "ends in the middle"),
        (cut(512), "ends in the middle"),
        (cut(1500), "ends in the middle"),
        (damaged, "checksum"),
        (Tar(vec![0xff; 512]), "checksum"),
        (size(1 << 40), "map of holes or its size"),
        (sparse, "map of holes"),
        (Tar::default().entry("f", EntryType::new(b'Q'), b"", |_| {}), "'Q' is not known"),
        (Tar::default().symlink("s", ""), "without a target"),
        (Tar::default().hard_link("h", "none"), "to nothing"),
        (Tar::default().directory("d/", 0o755).hard_link("h", "d"), "to a directory"),
        (Tar::default().hard_link("h", "h"), "to nothing"),
        (Tar::default().file("f", "x").file("f/g", "x"), "a file stands"),
        (Tar::default().file("", "x").pax(&[("path", b".")]).file("x", "x"), "must be a directory"),
        (Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "x"), "more than 40 symbolic links"),
        (Tar::default().pax(&[("path", deep.as_bytes())]).directory("d", 0o755), "nested deeper"),
        (Tar::default().pax(&[("path", long.as_bytes())]).file("f", "x"), "longer than"),
        (Tar::default().pax(&xattrs).file("f", "x"), "too many extended attributes"),
        (Tar::default().pax(&[("size", b"-1")]).file("f", "x"), "size"),
        (Tar::default().entry("p", EntryType::XHeader, b"", |header| header.set_size(1 << 30)), "is larger than"),
        (Tar::default().entry("p", EntryType::GNULongName, b"", |header| header.set_size(1 << 30)), "is larger than"),
    ];
    for (tar, reason) in table {
        Root::new().refuses(&tar, reason);
    }
}

#[test]
fn device_nodes_are_made_as_root_where_they_mean_a_device_and_never_the_one_that_hides() {
    let device = |major, minor| {
        Tar::default().entry("null", EntryType::Char, b"", move |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
            header.set_mode(0o666);
        })
    };
    let root = Root::new();
    root.unpack(&device(1, 3));
    let made = is_root() && std::env::consts::OS == "linux";
    assert_eq!(root.has("null"), made);
    if made {
        assert_eq!((root.stat("null").rdev(), root.stat("null").mode() & 0o7777), (0x103, 0o666));
    }
    root.refuses(&device(0, 0), "0:0");
}

#[test]
fn what_is_no_archive_at_all_never_panics() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let good = Tar::default().pax(&[("path", b"d/e")]).file("x", "contents").symlink("s", "d").directory("d/", 0o755).0;
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % bytes.len() as u64).unwrap();
            bytes[at] = (seed >> 32) as u8;
            // A right checksum lets the damage through.
            for block in [0, 1024, 2048, 2560] {
                let sum: u32 = bytes[block..block + 512]
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
                    .sum();
                bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        drop(Root::new().apply(&Tar(bytes)));
    }
}

#[test]
fn an_entry_beyond_a_sparse_bomb_is_bounded() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder
        .write_all(&Tar::default().entry("zeros", EntryType::Regular, b"", |header| header.set_size(3 << 30)).0)
        .unwrap();
    io::copy(&mut io::repeat(0).take(1 << 20), &mut encoder).unwrap();
    let compressed = encoder.finish().unwrap();
    let root = Root::new();
    let directory: OwnedFd = File::open(root.path("")).unwrap().into();
    let trouble = unpack(&compressed[..], compressed.len() as u64, directory, None).unwrap_err();
    assert_eq!(trouble.refusal, Refusal::Invalid, "{trouble}");
}
