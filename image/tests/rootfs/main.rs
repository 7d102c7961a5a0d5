//! The conformance suite on the backends of this system, and tests of single backends.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use host::ContainerId;
use host::fault::Faults;
use image::rootfs::{ChainId, Copy, Fake, Rootfs, conformance};

#[cfg(target_os = "freebsd")]
mod zfs;

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../../runtime/host/tests/support/small_disk.rs"]
mod small_disk;

#[test]
fn the_fake_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::run(&|| Arc::new(Fake::open(directory.path(), Faults::default()).unwrap()));
}

#[test]
fn copies_conform() {
    let directory = tempfile::tempdir().unwrap();
    conformance::run(&|| Arc::new(Copy::open(directory.path()).unwrap()));
}

/// Bind-mounts a directory, as for a volume of a container.
#[cfg(target_os = "linux")]
fn show(from: &Path, at: &Path) {
    use nix::mount::{MsFlags, mount};
    let nothing = None::<&str>;
    mount(Some(from), at, nothing, MsFlags::MS_BIND, nothing).unwrap();
}

#[cfg(target_os = "freebsd")]
fn show(from: &Path, at: &Path) {
    use nix::mount::{MntFlags, Nmount};
    let mut options = Nmount::new();
    options.str_opt_owned("fstype", "nullfs").str_opt_owned("target", from).str_opt_owned("fspath", at);
    options.nmount(MntFlags::empty()).unwrap();
}

#[cfg(target_os = "linux")]
fn hide(at: &Path) {
    nix::mount::umount(at).unwrap();
}

#[cfg(target_os = "freebsd")]
fn hide(at: &Path) {
    nix::mount::unmount(at, nix::mount::MntFlags::empty()).unwrap();
}

#[test]
fn a_copy_with_a_mount_in_it_is_kept_and_names_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let volume = directory.path().join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    fs::write(volume.join("below/precious"), "x".repeat(1 << 20)).unwrap();
    let copy = Copy::open(&directory.path().join("copy")).unwrap();
    let chain = ChainId(image::Digest::of(b"mounted").to_string());
    copy.commit(&copy.begin(&chain, None).unwrap()).unwrap();
    let id = ContainerId::random();
    let at = copy.prepare(&id, &chain).unwrap().join("data/volume");
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("own"), "x").unwrap();
    show(&volume, &at);
    // A whole root that is a mount itself (a read-only one) is not entered either.
    for at in [at.clone(), copy.prepare(&id, &chain).unwrap()] {
        if !at.ends_with("volume") {
            show(&volume, &at);
        }
        let error = host::chain(&copy.discard(&id).unwrap_err());
        assert!(error.contains(&format!("{} is a mount point", at.display())), "{error}");
        assert!(volume.join("below/precious").exists());
        if !at.ends_with("volume") {
            hide(&at);
        }
    }
    hide(&at);
    copy.discard(&id).unwrap();
    copy.discard(&id).unwrap();
    assert!(volume.join("below/precious").exists() && copy.inventory().unwrap().1.is_empty());
}

#[test]
fn what_is_mounted_in_a_root_is_not_counted() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = Copy::open(&directory.path().join("copy")).unwrap();
    let chain = ChainId(image::Digest::of(b"mounted").to_string());
    copy.commit(&copy.begin(&chain, None).unwrap()).unwrap();
    let id = ContainerId::random();
    let root = copy.prepare(&id, &chain).unwrap();
    // A path that the image declares as a volume belongs to the container.
    fs::create_dir_all(root.join("own")).unwrap();
    fs::create_dir_all(root.join("foreign")).unwrap();
    fs::write(root.join("own/f"), "x".repeat(1 << 20)).unwrap();
    let before = copy.usage(&id).unwrap();
    assert!(before.bytes >= 1 << 20, "{before:?}");
    let Some(disk) = small_disk::SmallDisk::mount(&root.join("foreign"), 4) else { return };
    fs::write(root.join("foreign/f"), "x".repeat(1 << 20)).unwrap();
    let counted = copy.usage(&id).unwrap();
    assert!(counted.bytes <= before.bytes && counted.inodes <= before.inodes, "{counted:?} after {before:?}");
    drop(disk);
    copy.discard(&id).unwrap();
}

#[cfg(target_os = "linux")]
mod overlay {
    use std::os::unix::fs::MetadataExt;

    use image::rootfs::Overlay;

    use super::*;

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("skipped: not root");
        }
        root
    }

    fn mounts_below(directory: &Path) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(directory.to_str().unwrap())).count()
    }

    #[test]
    fn overlays_conform() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        assert!(Overlay::works(directory.path()));
        conformance::run(&|| Arc::new(Overlay::open(directory.path()).unwrap()));
        assert_eq!(mounts_below(directory.path()), 0);
    }

    #[test]
    fn more_layers_than_fit_a_page_of_options_are_mounted() {
        if !is_root() {
            return;
        }
        // A comma and a colon separate mount options and layers.
        let directory = tempfile::Builder::new().prefix("a,b:c").tempdir().unwrap();
        let overlay = Overlay::open(directory.path()).unwrap();
        let chain = |n: usize| ChainId(image::Digest::of(&n.to_le_bytes()).to_string());
        for n in 0..100usize {
            let parent = n.checked_sub(1).map(chain);
            let unpacking = overlay.begin(&chain(n), parent.as_ref()).unwrap();
            fs::write(unpacking.directory.join(n.to_string()), "x").unwrap();
            overlay.commit(&unpacking).unwrap();
        }
        let id = ContainerId::random();
        let root = overlay.prepare(&id, &chain(99)).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 100);
        overlay.discard(&id).unwrap();
        (0..100).rev().for_each(|n| overlay.remove_chain(&chain(n)).unwrap());
        assert_eq!(mounts_below(directory.path()), 0);
    }

    #[test]
    fn a_root_is_mounted_again_after_a_reboot_and_removed_while_it_is_busy() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let overlay = Overlay::open(directory.path()).unwrap();
        let chain = ChainId(image::Digest::of(b"a").to_string());
        let unpacking = overlay.begin(&chain, None).unwrap();
        fs::write(unpacking.directory.join("f"), "x").unwrap();
        overlay.commit(&unpacking).unwrap();
        let id = ContainerId::random();
        let root = overlay.prepare(&id, &chain).unwrap();
        fs::write(root.join("mine"), "x").unwrap();
        nix::mount::umount(&root).unwrap();
        assert_eq!(overlay.prepare(&id, &chain).unwrap(), root);
        assert!(root.join("f").exists() && root.join("mine").exists());
        let busy = fs::File::open(root.join("f")).unwrap();
        overlay.discard(&id).unwrap();
        assert!(!root.exists() && busy.metadata().unwrap().nlink() == 1);
        overlay.remove_chain(&chain).unwrap();
        assert_eq!(mounts_below(directory.path()), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_cannot_write_what_is_below_nor_use_its_devices() {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let directory = tempfile::tempdir().unwrap();
    if !image::rootfs::Overlay::works(directory.path()) {
        eprintln!("skipped: no overlayfs here");
        return;
    }
    let overlay = image::rootfs::Overlay::open(directory.path()).unwrap();
    let chain = |name: &str| ChainId(image::Digest::of(name.as_bytes()).to_string());
    let mut below: Option<ChainId> = None;
    // Below the second is one directory, below the third a mount of two.
    for name in ["a", "b", "c"] {
        let unpacking = overlay.begin(&chain(name), below.as_ref()).unwrap();
        assert_eq!(unpacking.below.is_some(), below.is_some());
        if let Some(view) = &unpacking.below {
            let flags = FsFlags::ST_RDONLY | FsFlags::ST_NODEV | FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC;
            assert!(statvfs(view).unwrap().flags().contains(flags), "{name}");
        }
        overlay.commit(&unpacking).unwrap();
        below = Some(unpacking.chain);
    }
}
