//! What is mounted into a root stays in it, and is no more writable than it should be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::Error;
use runtime::spec::{ContainerSpec, Mount, MountSource};

use crate::bench::{Bench, add_program, eventually, host_mount, tool};

/// How often the race is run.
const ATTEMPTS: usize = 10;

#[test]
fn links_of_a_hostile_image_do_not_lead_a_mount_out_of_the_root() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let (host, volume) = (bench.directory.path().join("host"), bench.directory.path().join("volume"));
    fs::create_dir_all(&host).unwrap();
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("mark"), "volume\n").unwrap();
    let mut spec = bench.spec("cat /absolute/mark /relative/deep/mark");
    symlink(&host, spec.rootfs.join("absolute")).unwrap();
    symlink("../../../../../../../../../../tmp", spec.rootfs.join("relative")).unwrap();
    // The files that this backend reads itself.
    fs::create_dir_all(spec.rootfs.join("etc")).unwrap();
    symlink("/../../../etc/master.passwd", spec.rootfs.join("etc/passwd")).unwrap();
    spec.mounts = vec![host_mount(&volume, "/absolute", true), host_mount(&volume, "/relative/deep", true)];
    let (exit, text) = bench.output(&spec);
    assert_eq!((exit.code, text.as_str()), (0, "volume\nvolume\n"));
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0, "nothing was made on the host");
    let root = spec.rootfs.canonicalize().unwrap();
    let mounts = tool("mount", &["-p"]);
    let from = volume.canonicalize().unwrap();
    for line in mounts.lines().filter(|line| line.starts_with(from.to_str().unwrap())) {
        assert!(line.split_whitespace().nth(1).unwrap().starts_with(root.to_str().unwrap()), "{line}");
    }
    bench.remove();
}

#[test]
fn links_of_a_shared_volume_do_not_lead_a_mount_out_of_the_root() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let (host, volume) = (bench.directory.path().join("host"), bench.directory.path().join("volume"));
    fs::create_dir_all(host.join("target")).unwrap();
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("mark"), "volume\n").unwrap();
    symlink(&host, volume.join("out")).unwrap();
    symlink("../../../../../../../../../../../etc", volume.join("up")).unwrap();
    let mut spec = bench.spec("cat /vol/out/target/mark /vol/up/deep/mark");
    spec.mounts = vec![
        host_mount(&volume, "/vol", false),
        host_mount(&volume, "/vol/out/target", true),
        host_mount(&volume, "/vol/up/deep", true),
    ];
    assert_eq!(bench.output(&spec).1, "volume\nvolume\n");
    assert_eq!(fs::read_dir(host.join("target")).unwrap().count(), 0, "nothing is mounted on the host");
    assert!(!Path::new("/etc/deep").exists());
    bench.remove();
}

#[test]
fn mounts_are_no_more_writable_than_they_should_be() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let shared = bench.directory.path().join("shared");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("file"), "text\n").unwrap();
    let mut spec = bench.spec(
        "cat /data/file; (echo x > /data/new) 2>/dev/null || echo data is read-only; echo more >> /one; \
         (echo x > /root-file) 2>/dev/null || echo root is read-only; echo x > /memory/x && echo memory; \
         cat /masked; ls /hidden; (echo x > /kept/x) 2>/dev/null || echo kept is read-only",
    );
    add_program(&spec.rootfs, "/bin/ls");
    spec.readonly_rootfs = true;
    fs::write(spec.rootfs.join("masked"), "secret\n").unwrap();
    fs::create_dir(spec.rootfs.join("hidden")).unwrap();
    fs::write(spec.rootfs.join("hidden/secret"), "secret\n").unwrap();
    fs::create_dir(spec.rootfs.join("kept")).unwrap();
    spec.security.masked_paths = vec!["/masked".into(), "/hidden".into(), "/proc/none".into()];
    spec.security.readonly_paths = vec!["/kept".into()];
    spec.mounts = vec![
        host_mount(&shared, "/data", true),
        host_mount(shared.join("file"), "/one", false),
        Mount { source: MountSource::Tmpfs { size: Some(1 << 20) }, ..host_mount("", "/memory", false) },
    ];
    let (_, text) = bench.output(&spec);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["text", "data is read-only", "root is read-only", "memory", "kept is read-only"]);
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "text\nmore\n");
    let (from, id) = (shared.join("file"), spec.id.clone());
    let mut wrong = bench.spec("true");
    wrong.mounts = vec![host_mount(from, "/bin", false)];
    let error = bench.runtime.create_container(&wrong).unwrap_err();
    assert!(matches!(&error, Error::Invalid { reason, .. } if reason.contains("/bin")), "{error}");
    assert_ne!(wrong.id, id);
    bench.remove();
}

#[test]
fn a_root_that_can_be_written_keeps_a_read_only_path() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("(echo x > /kept/x) 2>/dev/null || echo kept is read-only; echo x > /free && cat /free");
    fs::create_dir(spec.rootfs.join("kept")).unwrap();
    spec.security.readonly_paths = vec!["/kept".into()];
    assert_eq!(bench.output(&spec).1, "kept is read-only\nx\n");
    bench.remove();
}

#[test]
fn what_lost_its_state_is_found_in_the_kernel() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("while :; do sleep 1; done");
    let rootfs = bench.directory.path().join(spec.id.as_str()).join("rootfs");
    fs::create_dir_all(rootfs.parent().unwrap()).unwrap();
    fs::rename(&spec.rootfs, &rootfs).unwrap();
    spec.rootfs = rootfs;
    bench.start(&spec);
    fs::remove_dir_all(bench.settings.state.join("containers").join(spec.id.short())).unwrap();
    bench.runtime.remove_container(&spec.id).unwrap();
    // The ruleset's number was lost with the state; it is this test's to remove.
    bench.remove();
}

#[test]
fn a_place_that_moves_while_it_is_mounted_leads_nowhere() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let (host, volume) = (bench.directory.path().join("host"), bench.directory.path().join("volume"));
    fs::create_dir_all(host.join("x")).unwrap();
    fs::create_dir_all(volume.join("swap/x")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, swap, kept, target) = (Arc::clone(&stop), volume.join("swap"), volume.join("kept"), host.clone());
    let swapper = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            // Any of these fails where the backend was faster; the next round goes on with what is there.
            let _ = fs::rename(&swap, &kept);
            let _ = symlink(&target, &swap);
            let _ = fs::remove_file(&swap);
            let _ = fs::remove_dir(swap.join("x"));
            let _ = fs::remove_dir(&swap);
            let _ = fs::rename(&kept, &swap);
        }
    });
    for _ in 0..ATTEMPTS {
        let mut spec = bench.spec("true");
        spec.mounts = vec![host_mount(&volume, "/vol", false), host_mount("/etc", "/vol/swap/x", true)];
        // It may be refused; it may not lead out of the root.
        let made = bench.runtime.create_container(&spec);
        let real = host.canonicalize().unwrap();
        assert!(!tool("mount", &["-p"]).contains(real.to_str().unwrap()), "{made:?}");
        bench.runtime.remove_container(&spec.id).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    bench.remove();
}

#[test]
fn what_is_mounted_below_dev_is_seen_by_the_container_and_by_what_is_executed_in_it() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let volume = bench.directory.path().join("volume");
    fs::create_dir_all(&volume).unwrap();
    for readonly_rootfs in [false, true] {
        let log = volume.join("log");
        fs::write(&log, "").unwrap();
        let mut spec = bench.spec(
            "echo ended > /dev/termination-log; cat /dev/termination-log; echo x > /dev/a/b/new && echo made; \
             (echo x > /dev/a/c) 2>/dev/null || echo c is read-only; echo x > /dev/null && echo null",
        );
        spec.readonly_rootfs = readonly_rootfs;
        spec.mounts = vec![
            host_mount(&log, "/dev/termination-log", false),
            host_mount(&volume, "/dev/a/b", false),
            host_mount(&log, "/dev/a/c", true),
        ];
        let (exit, text) = bench.output(&spec);
        assert_eq!((exit.code, text.as_str()), (0, "ended\nmade\nc is read-only\nnull\n"));
        assert_eq!(fs::read_to_string(&log).unwrap(), "ended\n");
        fs::remove_file(volume.join("new")).unwrap();
        bench.runtime.remove_container(&spec.id).unwrap();
        let root = spec.rootfs.canonicalize().unwrap();
        assert!(!tool("mount", &["-p"]).contains(root.to_str().unwrap()), "nothing stays mounted");
    }
    bench.remove();
}

/// A rule that showed the link by its name would show the node's device too, once the link is removed.
#[test]
fn a_mount_over_a_hidden_device_does_not_show_the_device() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let file = bench.directory.path().join("file");
    fs::write(&file, "").unwrap();
    let mut spec = bench.spec("true");
    spec.mounts = vec![host_mount(&file, "/dev/mem", false)];
    let error = bench.runtime.create_container(&spec).unwrap_err().to_string();
    assert!(error.contains("/dev/mem"), "{error}");
    bench.remove();
}

#[test]
fn a_mount_does_not_hide_one_below_it_that_was_named_before_it() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let [outer, inner] = ["outer", "inner"].map(|name| bench.directory.path().join(name));
    for volume in [&outer, &inner] {
        fs::create_dir_all(volume).unwrap();
        fs::write(volume.join("mark"), format!("{}\n", volume.display())).unwrap();
    }
    let mut spec = bench.spec("cat /m/mark /m/n/mark");
    spec.mounts = vec![host_mount(&inner, "/m/n", false), host_mount(&outer, "/m", false)];
    assert_eq!(bench.output(&spec).1, format!("{}\n{}\n", outer.display(), inner.display()));
    bench.remove();
}

#[test]
fn what_cannot_be_mounted_is_refused_by_name() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let socket = bench.directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let fifo = bench.directory.path().join("fifo");
    tool("mkfifo", &[fifo.to_str().unwrap()]);
    for (path, what) in
        [(socket.as_path(), "a socket"), (fifo.as_path(), "a fifo"), (Path::new("/dev/null"), "a device")]
    {
        let mut spec = bench.spec("exit 0");
        spec.mounts = vec![host_mount(path, "/m", false)];
        let error = bench.runtime.create_container(&spec).unwrap_err().to_string();
        assert!(error.contains("mounts.source") && error.contains(what), "{error}");
    }
    bench.remove();
}

/// Everything below a directory; not its blocks, which ZFS settles later.
fn tree(root: &Path) -> String {
    tool("find", &["-s", root.to_str().unwrap(), "-exec", "stat", "-f", "%i %p %l %u %g %z %m %N", "{}", "+"])
}

#[test]
fn a_rootfs_that_has_every_place_is_shared_and_stays_as_it_is() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let volume = bench.directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("mark"), "volume\n").unwrap();
    let mut spec = bench.spec("cat /data/mark; (echo x > /new) 2>/dev/null || echo read-only; sleep 1000");
    spec.readonly_rootfs = true;
    spec.mounts = vec![host_mount(&volume, "/data", true)];
    let fits = |spec: &ContainerSpec| bench.runtime.can_share(spec, &spec.rootfs).unwrap();
    assert!(!fits(&spec), "nothing has a place");
    for directory in ["dev", "data", "etc", "work/below"] {
        fs::create_dir_all(spec.rootfs.join(directory)).unwrap();
    }
    fs::write(spec.rootfs.join("etc/resolv.conf"), "").unwrap();
    assert!(fits(&spec));
    assert!(!fits(&ContainerSpec { readonly_rootfs: false, ..spec.clone() }), "it would be written to");
    for destination in ["/none", "/dev/termination-log"] {
        let mounts = vec![host_mount(&volume, destination, true)];
        assert!(!fits(&ContainerSpec { mounts, ..spec.clone() }), "{destination}");
    }
    let before = tree(&spec.rootfs);
    let mut lacking = ContainerSpec { shared_rootfs: true, ..spec.clone() };
    lacking.mounts = vec![host_mount(&volume, "/none", true)];
    let error = bench.runtime.create_container(&lacking).unwrap_err().to_string();
    assert!(error.contains("/none"), "{error}");
    let one = ContainerSpec { shared_rootfs: true, ..spec };
    let other = ContainerSpec {
        id: host::ContainerId::random(),
        log_path: Some(bench.directory.path().join("other.log")),
        ..one.clone()
    };
    for spec in [&one, &other] {
        bench.start(spec);
        eventually("both lines", || bench.log(spec) == "volume\nread-only\n");
    }
    bench.runtime.remove_container(&one.id).unwrap();
    assert!(matches!(bench.runtime.container_state(&other.id).unwrap(), runtime::ContainerState::Running(_)));
    bench.runtime.remove_container(&other.id).unwrap();
    assert_eq!(tree(&one.rootfs), before, "nothing was made in it");
    bench.remove();
}

/// Why no root is made of hard links into an unpacked image, besides that a write would change all of them: resolv.conf and every
/// volume that is a file could not be mounted (`vfs_domount_first` in kern/vfs_mount.c).
#[test]
fn a_file_with_two_links_takes_no_mount() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let file = bench.directory.path().join("file");
    fs::write(&file, "mounted\n").unwrap();
    let mut spec = bench.spec("cat /one");
    fs::write(spec.rootfs.join("one"), "").unwrap();
    spec.mounts = vec![host_mount(&file, "/one", true)];
    fs::hard_link(spec.rootfs.join("one"), spec.rootfs.join("other")).unwrap();
    let error = host::chain(&bench.runtime.create_container(&spec).unwrap_err());
    assert!(error.contains("/one") && error.contains("Invalid argument"), "{error}");
    fs::remove_file(spec.rootfs.join("other")).unwrap();
    assert_eq!(bench.output(&spec).1, "mounted\n");
    bench.remove();
}
