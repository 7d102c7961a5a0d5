//! The rights of the unpacking worker, read from a worker that waits for its input, and pulls on a full disk. Both need root on
//! Linux.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[allow(dead_code, reason = "shared with other tests")]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use image::Error;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::{Content, Registry, Store, layer, workers};

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

/// The value of a line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap().trim().to_owned()
}

#[test]
fn a_worker_has_one_directory_and_few_rights() {
    if !is_root() {
        return;
    }
    let (directory, below) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = workers().command("unpack");
    command.args(["sha256", "below"]).arg(below.path());
    command.current_dir(directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut worker = command.spawn().unwrap();
    let (pid, root) = (worker.id(), |pid: u32| fs::read_link(format!("/proc/{pid}/root")).unwrap());
    for _ in 0..500 {
        if status(pid, "NoNewPrivs") == "1" {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(root(pid), directory.path(), "its root is the directory");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP (capabilities(7)).
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&status(pid, set), 16).unwrap(), 0x8800_001b, "{set}");
    }
    for namespace in ["mnt", "net", "ipc"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let own = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(["nosuid", "nodev", "noexec"].iter().all(|flag| own.contains(flag)), "{own}");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let opened = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let opened: Vec<_> = opened.filter(|path| fs::metadata(path).is_ok_and(|found| found.is_dir())).collect();
    assert_eq!(opened.len(), 2, "{opened:?}");
    let apart = opened.iter().find(|path| inode(path) == inode(below.path())).unwrap();
    assert_eq!(inode(&apart.join("..")), inode(below.path()), "nothing is above what is below");
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_worker_hides_what_is_as_deep_as_a_layer_may_be() {
    if !is_root() {
        return;
    }
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deep = "d/".repeat(511);
    for (directory, below, file) in [(&lower, None, "low"), (&upper, Some(lower.path()), "own")] {
        let mut files = vec![(format!("{deep}{file}"), "x")];
        files.extend(below.map(|_| (".wh..wh..opq".to_owned(), "")));
        let files: Vec<_> = files.iter().map(|(name, contents)| (name.as_str(), *contents)).collect();
        let tar = directory.path().with_extension("tar");
        fs::write(&tar, layer(&files)).unwrap();
        let mut command = workers().command("unpack");
        command.arg("sha256").args(below.iter().flat_map(|below| [Path::new("below"), below]));
        command.current_dir(directory.path()).stdin(fs::File::open(&tar).unwrap());
        let output = command.output().unwrap();
        fs::remove_file(tar).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let last = fs::symlink_metadata(upper.path().join(format!("{deep}low"))).unwrap();
    assert_eq!((last.mode(), last.rdev()), (0o020_000, 0), "a whiteout");
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_stays() {
    if !is_root() {
        return;
    }
    let noise: String =
        (0..600_000u64).map(|n| char::from(b'a' + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26)).collect();
    // The store reserves one megabyte of it.
    for (size, compression, full) in [("2m", "", "write blob"), ("2m", "zstd", "unpack"), ("9m", "zstd", "")] {
        let mut content = Content::default();
        let files = [("a", noise.as_str()), ("b", noise.as_str())];
        content.image("linux/amd64", &[]);
        let manifest = content.image("linux/amd64", &[(layer(&files), compression)]);
        content.tag("1", &manifest);
        let registry = Registry::start(move |seen| content.answer(seen)).await;
        let mut store = Store::new();
        let directory = store.directory.path().to_owned();
        let options = format!("size={size}");
        mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        store.reopen();
        let pulled = store.images.pull(&format!("{}/t:1", registry.address), None).await;
        if pulled.is_err() {
            store.wait_until_empty().await;
        }
        let images = store.images.list().len();
        umount2(&directory, MntFlags::MNT_DETACH).unwrap();
        if full.is_empty() {
            pulled.unwrap();
            continue;
        }
        let error = pulled.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let text = host::chain(&error);
        assert!(text.contains(full) && text.contains("No space left"), "{text}");
        assert_eq!(images, 0);
    }
}
