//! Layers that are unpacked beside what is below them, as the kernel's overlayfs then shows them: as if each were unpacked onto the
//! ones below.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tar::EntryType;

use super::{Failure, Root, Tar, unpack};
use crate::rootfs::Overlay;
use crate::sys;

/// The time of every entry.
const TIME: i64 = 1_000_000_000;

/// Directories of layers, and mounts of those below.
struct Stack {
    scratch: tempfile::TempDir,
    /// The lowest first.
    storeys: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
}

impl Stack {
    fn new() -> Self {
        Self { scratch: tempfile::tempdir().unwrap(), storeys: Vec::new(), mounts: Vec::new() }
    }

    fn storey(&mut self) {
        let storey = self.scratch.path().join(self.storeys.len().to_string());
        fs::create_dir(&storey).unwrap();
        self.storeys.push(storey);
    }

    /// Unpacks a layer into the uppermost directory.
    fn apply(&mut self, tar: &Tar) -> Result<(), Failure> {
        let below = self.storeys.len() - 1;
        let below: Option<OwnedFd> = (below > 0).then(|| File::open(self.view(below)).unwrap().into());
        let directory = File::open(self.storeys.last().unwrap()).unwrap();
        unpack(&tar.0[..], 0, directory.into(), below).map(drop)
    }

    /// What the lowest directories show together.
    fn view(&mut self, count: usize) -> PathBuf {
        let storeys: Vec<_> = self.storeys[..count].iter().rev().map(|storey| storey.display().to_string()).collect();
        if storeys.len() == 1 {
            return self.storeys[0].clone();
        }
        let at = self.scratch.path().join(format!("view{}", self.mounts.len()));
        fs::create_dir(&at).unwrap();
        let options = format!("lowerdir={}", storeys.join(":"));
        mount(Some("overlay"), &at, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        self.mounts.push(at.clone());
        at
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.mounts.iter().for_each(|at| umount2(at, MntFlags::MNT_DETACH).unwrap());
    }
}

fn has_overlayfs() -> bool {
    let works = Overlay::works(tempfile::tempdir().unwrap().path());
    if !works {
        eprintln!("skipped: no overlayfs here");
    }
    works
}

/// What there is below a directory, but numbers of inodes and links: a copy of a file from below is another one.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut left) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = left.pop() {
        let whole = root.join(&path);
        let metadata = fs::symlink_metadata(&whole).unwrap();
        let kind = metadata.file_type();
        let contents = if kind.is_file() {
            fs::read_to_string(&whole).unwrap()
        } else if kind.is_symlink() {
            fs::read_link(&whole).unwrap().display().to_string()
        } else if kind.is_fifo() || kind.is_char_device() {
            metadata.rdev().to_string()
        } else {
            left.extend(fs::read_dir(&whole).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
            String::new()
        };
        let xattrs = match kind.is_file() || kind.is_dir() {
            true => sys::xattrs(File::open(&whole).unwrap().as_fd()).unwrap(),
            false => Vec::new(),
        };
        // Other times are those of the test.
        let own = metadata.mtime() == TIME;
        let owner = (metadata.mode(), metadata.uid(), metadata.gid());
        let text = format!("{kind:?} {owner:?} {own} {contents:?} {xattrs:?}");
        found.insert(path, text);
    }
    found
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % end as u64).unwrap()
    }

    fn path(&mut self) -> String {
        let names: Vec<_> = (0..=self.below(3)).map(|_| ["a", "b", "c"][self.below(3)]).collect();
        names.join("/")
    }

    fn layer(&mut self) -> Tar {
        (0..1 + self.below(6)).fold(Tar::default(), |tar, _| self.entry(tar))
    }

    fn entry(&mut self, tar: Tar) -> Tar {
        let (path, target, mode, owner) =
            (self.path(), self.path(), [0o644, 0o755, 0o4711, 0o2750][self.below(4)], self.below(3) as u64);
        let change = move |header: &mut tar::Header| {
            header.set_mode(mode);
            header.set_uid(owner);
        };
        match self.below(12) {
            0..3 => tar.entry(&path, EntryType::Regular, target.as_bytes(), change),
            3..6 => tar.entry(&format!("{path}/"), EntryType::Directory, b"", change),
            6 => tar.symlink(&path, &format!("/{target}")),
            7 => tar.hard_link(&path, &target),
            8 => tar.entry(&path, EntryType::Fifo, b"", change),
            9 => tar.file(&format!("{path}/.wh..wh..opq"), ""),
            _ => {
                let (parent, name) = path
                    .rsplit_once('/')
                    .map_or((String::new(), &*path), |(parent, name)| (format!("{parent}/"), name));
                tar.file(&format!("{parent}.wh.{name}"), "")
            }
        }
    }
}

#[test]
fn what_is_unpacked_beside_the_layers_below_shows_as_if_it_were_unpacked_onto_them() {
    if !has_overlayfs() {
        return;
    }
    let (mut dice, mut whole) = (Dice(0x2545_f491_4f6c_dd1d), 0);
    for round in 0..400 {
        let (plain, mut stack) = (Root::new(), Stack::new());
        for layer in 0..2 + dice.below(4) {
            // Several small layers may share a directory.
            if layer == 0 || dice.below(3) > 0 {
                stack.storey();
            }
            let tar = dice.layer();
            let (expected, found) = (plain.apply(&tar), stack.apply(&tar));
            // What is refused leaves the same part of a layer behind.
            assert_eq!(expected.as_ref().err(), found.as_ref().err(), "round {round}, layer {layer}");
            whole += usize::from(expected.is_ok());
        }
        let view = stack.view(stack.storeys.len());
        assert_eq!(listing(&view), listing(&plain.path("")), "round {round}");
    }
    assert!(whole > 400, "most layers are refused: {whole} are not");
}

#[test]
fn an_entry_that_replaces_a_link_on_its_own_path_stands_in_the_way_of_the_next() {
    if !has_overlayfs() {
        return;
    }
    let (plain, mut stack) = (Root::new(), Stack::new());
    let upper = Tar::default().file("l/f", "x").directory("l/l/", 0o755).file("l/g", "x");
    for tar in [Tar::default().symlink("l", "."), upper] {
        stack.storey();
        stack.apply(&tar).unwrap();
        plain.unpack(&tar);
    }
    let view = stack.view(2);
    assert_eq!(listing(&view), listing(&plain.path("")));
    assert!(view.join("f").exists() && view.join("l/g").exists());
}

#[test]
fn a_file_from_below_that_a_layer_links_to_keeps_its_attributes() {
    if !has_overlayfs() {
        return;
    }
    let mut stack = Stack::new();
    stack.storey();
    let lower = Tar::default()
        .directory("d/", 0o1777)
        .pax(&[("SCHILY.xattr.user.note", b"kept")])
        .entry("d/f", EntryType::Regular, b"contents", |header| {
            header.set_mode(0o4751);
            header.set_uid(7);
        })
        .entry("d/null", EntryType::Char, b"", |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        });
    stack.apply(&lower).unwrap();
    stack.storey();
    stack.apply(&Tar::default().hard_link("g", "d/f").hard_link("null", "d/null").file(".wh.d", "")).unwrap();
    let view = stack.view(2);
    let found = fs::metadata(view.join("g")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.mtime()), (0o4751, 7, TIME));
    assert_eq!(fs::read_to_string(view.join("g")).unwrap(), "contents");
    assert_eq!(fs::metadata(view.join("null")).unwrap().rdev(), 0x103);
    let note = sys::xattrs(File::open(view.join("g")).unwrap().as_fd()).unwrap();
    // Temporary directories may be on a file system without extended attributes.
    assert!(note.is_empty() || note.iter().any(|(name, value)| name == "user.note" && value == b"kept"), "{note:?}");
    assert!(!view.join("d").exists());
}

#[test]
fn what_is_copied_from_below_inherits_no_acl() {
    if !has_overlayfs() {
        return;
    }
    // The owner, user 1234, the group, the mask, others: acl(5) and posix_acl_xattr.h.
    let entries: [(u16, u16, u32); 5] = [(1, 7, !0), (2, 7, 1234), (4, 5, !0), (16, 7, !0), (32, 5, !0)];
    let bytes = |(tag, rights, id): (u16, u16, u32)| {
        [tag.to_le_bytes().as_slice(), &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let acl = [2u32.to_le_bytes().to_vec(), entries.into_iter().flat_map(bytes).collect()].concat();
    let lower = Tar::default()
        .directory("d/e/", 0o755)
        .file("d/f", "x")
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)])
        .directory("d/", 0o755);
    let (plain, mut stack) = (Root::new(), Stack::new());
    for tar in [lower, Tar::default().file("d/e/x", "x").hard_link("g", "d/f")] {
        stack.storey();
        stack.apply(&tar).unwrap();
        plain.unpack(&tar);
    }
    assert_eq!(listing(&stack.view(2)), listing(&plain.path("")));
}

#[test]
fn a_short_layer_cannot_hide_the_same_names_again_and_again() {
    if !has_overlayfs() {
        return;
    }
    type Part = fn(Tar) -> Tar;
    let again: [Part; 2] = [|tar| tar.file("d", "x").directory("d/", 0o755), |tar| tar.file("d/.wh..wh..opq", "")];
    for part in again {
        let mut stack = Stack::new();
        stack.storey();
        stack.apply(&(0..100).fold(Tar::default(), |tar, n| tar.file(&format!("d/{n}"), "x"))).unwrap();
        stack.storey();
        let trouble = stack.apply(&(0..102).fold(Tar::default(), |tar, _| part(tar))).unwrap_err();
        assert!(trouble.reason.contains("hides more than"), "{trouble}");
    }
    // What is hidden once takes one file, as the kernel does it.
    let mut stack = Stack::new();
    stack.storey();
    stack.apply(&Tar::default().file("d/a", "x").file("d/b", "x")).unwrap();
    stack.storey();
    stack.apply(&again[0](Tar::default())).unwrap();
    assert_eq!(fs::symlink_metadata(stack.storeys[1].join("d/a")).unwrap().nlink(), 2);
    assert_eq!(fs::read_dir(stack.view(2).join("d")).unwrap().count(), 0);
}
