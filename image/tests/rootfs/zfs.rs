//! Roots on ZFS, below the dataset that CELLBLOCK_TEST_ZFS names.

use host::run::Tool;
use image::Error;
use image::rootfs::Zfs;

use super::*;

fn parent(name: &str) -> image::rootfs::Dataset {
    image::rootfs::Dataset { name: name.to_owned(), compression: String::new(), recordsize: String::new() }
}

/// The dataset to work below, which the test's caller makes: `CELLBLOCK_TEST_ZFS=tank/test`.
fn dataset() -> Option<String> {
    let dataset = std::env::var("CELLBLOCK_TEST_ZFS").ok();
    if dataset.is_none() {
        eprintln!("skipped: CELLBLOCK_TEST_ZFS names no dataset");
    }
    dataset
}

#[test]
fn zfs_conforms() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    conformance::run(&|| Arc::new(Zfs::open(directory.path(), &parent(&dataset)).unwrap()));
    assert_eq!(fs::read_dir(directory.path().join("begun")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(directory.path().join("containers")).unwrap().count(), 0);
}

#[test]
fn a_container_gets_a_spare_root_and_takes_it_with_it() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let zfs = Zfs::open(directory.path(), &parent(&dataset)).unwrap();
    let containers = || -> Vec<_> {
        let entries = fs::read_dir(directory.path().join("containers")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let until = |count: usize| {
        (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            containers().len() == count
        })
    };
    let chain = ChainId(image::Digest::of(b"ahead").to_string());
    let unpacking = zfs.begin(&chain, None).unwrap();
    fs::write(unpacking.directory.join("f"), "of the layer").unwrap();
    zfs.commit(&unpacking).unwrap();
    zfs.keep_spares(1);
    let (first, second) = (ContainerId::random(), ContainerId::random());
    zfs.prepare(&first, &chain).unwrap();
    assert!(until(2), "a spare is made: {:?}", containers());
    assert_eq!(zfs.inventory().unwrap().1, std::slice::from_ref(&first), "it is no container's");
    let root = zfs.prepare(&second, &chain).unwrap();
    assert!(!root.to_string_lossy().contains(second.as_str()), "{}", root.display());
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "of the layer");
    assert_eq!(zfs.prepare(&second, &chain).unwrap(), root);
    zfs.snapshot(std::slice::from_ref(&second), "a").unwrap();
    assert_eq!(names(&zfs, &second), ["a"]);
    // A killed server left a spare, which no container uses.
    assert!(until(4), "{:?}", containers());
    let again = Zfs::open(directory.path(), &parent(&dataset)).unwrap();
    assert_eq!(again.inventory().unwrap().1.len(), 3);
    assert!(again.usage(&second).is_ok());
    zfs.discard(&second).unwrap();
    assert!(!root.exists());
    zfs.discard(&first).unwrap();
    assert!(zfs.inventory().unwrap().1.is_empty());
    zfs.remove_chain(&chain).unwrap();
    assert_eq!(containers(), Vec::<std::path::PathBuf>::new(), "with its chain it goes");
}

#[test]
fn the_mount_point_has_the_space_of_the_dataset() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let base = format!("{dataset}/small");
    zfs(&["create", "-o", "mountpoint=none", "-o", "quota=64m", &base]);
    let rootfs = Zfs::open(directory.path(), &parent(&base)).unwrap();
    for _ in 0..2 {
        let space = rootfs.mountpoint();
        assert_eq!(space, rootfs.mountpoint(), "asked twice");
        let found = nix::sys::statvfs::statvfs(&space).unwrap();
        let total = found.blocks() * found.fragment_size();
        assert!(total <= 64 << 20, "{}: {total} bytes", space.display());
        rootfs.close().unwrap();
        rootfs.close().unwrap();
        assert!(!space.exists());
    }
    zfs(&["destroy", "-r", &base]);
}

/// Runs zfs(8).
fn zfs(args: &[&str]) -> String {
    let output = Tool::new("zfs").args(args).run().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The datasets in the trash.
fn aside(base: &str) -> Vec<String> {
    let trash = format!("{base}/trash");
    let list = zfs(&["list", "-H", "-r", "-t", "filesystem", "-o", "name", &trash]);
    list.lines().filter(|name| *name != trash).map(str::to_owned).collect()
}

#[test]
fn what_others_keep_holds_neither_a_name_nor_a_server() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let zfs_open = || Zfs::open(directory.path(), &parent(&dataset)).unwrap();
    let rootfs = zfs_open();
    let [below, above] = [&b"below"[..], b"above"].map(|name| ChainId(image::Digest::of(name).to_string()));
    let make =
        |chain: &ChainId, parent: Option<&ChainId>| rootfs.commit(&rootfs.begin(chain, parent).unwrap()).unwrap();
    make(&below, None);
    make(&above, Some(&below));
    let id = ContainerId::random();
    rootfs.prepare(&id, &above).unwrap();
    let begun = ChainId(image::Digest::of(b"begun").to_string());
    rootfs.begin(&begun, Some(&below)).unwrap();
    // An administrator's backup: of all, one held, one cloned.
    let daily = format!("{dataset}@daily");
    zfs(&["snapshot", "-r", &daily]);
    let (held, clone) = (format!("{dataset}/containers/{id}@daily"), format!("{dataset}/mine"));
    zfs(&["hold", "mine", &held]);
    let hex = above.0.strip_prefix("sha256:").unwrap();
    zfs(&["clone", &format!("{dataset}/chains/{hex}@daily"), &clone]);
    rootfs.discard(&id).unwrap();
    assert!(
        rootfs.inventory().unwrap().1.is_empty() && !directory.path().join("containers").join(id.as_str()).exists()
    );
    // The clone of the container's dataset still uses the upper chain.
    assert!(matches!(rootfs.remove_chain(&above), Err(Error::Conflict { .. })));
    zfs(&["release", "mine", &held.replace(&format!("containers/{id}"), &aside(&dataset)[0][dataset.len() + 1..])]);
    rootfs.sweep_deferred();
    assert_eq!(aside(&dataset), Vec::<String>::new(), "a container goes with its snapshots");
    rootfs.remove_chain(&above).unwrap();
    assert!(!rootfs.has(&above).unwrap() && aside(&dataset).len() == 1);
    // Its name is free at once.
    make(&above, Some(&below));
    rootfs.remove_chain(&above).unwrap();
    assert_eq!(aside(&dataset).len(), 1);
    // A server starts with the trash of an earlier one.
    let rootfs = zfs_open();
    rootfs.sweep().unwrap();
    assert_eq!(aside(&dataset).len(), 2);
    rootfs.remove_chain(&begun).unwrap();
    assert!(matches!(rootfs.remove_chain(&below), Err(Error::Conflict { .. })));
    zfs(&["destroy", &clone]);
    zfs(&["destroy", "-r", &daily]);
    rootfs.sweep_deferred();
    assert_eq!(aside(&dataset), Vec::<String>::new());
    rootfs.remove_chain(&below).unwrap();
    assert!(rootfs.inventory().unwrap().0.is_empty());
}

#[test]
fn the_dataset_is_left_out_of_scheduled_snapshots_unless_its_owner_says_otherwise() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let property = "com.sun:auto-snapshot";
    for (set, expected) in [(None, "false\tlocal"), (Some("true"), "true\tlocal")] {
        let base = format!("{dataset}/scheduled");
        zfs(&["create", "-o", "mountpoint=none", &base]);
        if let Some(value) = set {
            zfs(&["set", &format!("{property}={value}"), &base]);
        }
        Zfs::open(directory.path(), &parent(&base)).unwrap();
        assert_eq!(zfs(&["get", "-H", "-o", "value,source", property, &base]), expected);
        zfs(&["inherit", property, &base]);
        Zfs::open(directory.path(), &parent(&base)).unwrap();
        assert_ne!(zfs(&["get", "-H", "-o", "source", property, &base]), "local", "it is set once");
        zfs(&["destroy", "-r", &base]);
    }
}

#[test]
fn a_root_has_its_limit_and_its_snapshots_outlive_it() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let parent =
        image::rootfs::Dataset { recordsize: "16K".to_owned(), compression: "off".to_owned(), ..parent(&dataset) };
    let roots = Zfs::open(directory.path(), &parent).unwrap();
    let chain = ChainId(image::Digest::of(b"limits").to_string());
    let unpacking = roots.begin(&chain, None).unwrap();
    fs::write(unpacking.directory.join("f"), vec![1; 4 << 20]).unwrap();
    roots.commit(&unpacking).unwrap();
    let (id, other) = (ContainerId::random(), ContainerId::random());
    let root = roots.prepare(&id, &chain).unwrap();
    roots.limit(&id, 4 << 20).unwrap();
    roots.limit(&id, 4 << 20).unwrap();
    fs::write(root.join("small"), vec![2; 1 << 20]).unwrap();
    let full = (0..16).find_map(|at| {
        let made = fs::File::create(root.join(format!("large{at}")));
        let written = made
            .and_then(|file| std::io::Write::write_all(&mut &file, &vec![3; 1 << 20]).and_then(|()| file.sync_all()));
        written.err()
    });
    assert_eq!(full.and_then(|error| error.raw_os_error()), Some(libc::EDQUOT));
    let property = |name: &str, of: &str| zfs(&["get", "-H", "-o", "value", name, of]);
    assert_eq!(property("recordsize", &format!("{dataset}/containers/{id}")), "16K");
    assert!(matches!(roots.limit(&other, 1), Err(Error::NotFound { .. })));

    roots.keep_snapshots(&id, "default/web/main").unwrap();
    assert!(root.join("small").exists(), "it has none: nothing is kept");
    roots.snapshot(std::slice::from_ref(&id), "a").unwrap();
    roots.keep_snapshots(&id, "default/web/main").unwrap();
    roots.keep_snapshots(&id, "default/web/main").unwrap();
    roots.discard(&id).unwrap();
    assert!(!root.exists() && roots.inventory().unwrap().1.is_empty());
    let kept = format!("{dataset}/kept/{id}");
    assert_eq!(property("cellblock:container", &kept), "default/web/main");
    assert!(matches!(roots.remove_chain(&chain), Err(Error::Conflict { .. })), "what is kept rests on it");
    zfs(&["destroy", "-r", &kept]);
    roots.remove_chain(&chain).unwrap();
}

#[test]
fn a_root_is_exported_and_containers_are_made_from_it() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let parent = || image::rootfs::Dataset { compression: "off".to_owned(), ..parent(&dataset) };
    let roots = Zfs::open(directory.path(), &parent()).unwrap();
    let chain = ChainId(image::Digest::of(b"exports").to_string());
    roots.commit(&roots.begin(&chain, None).unwrap()).unwrap();
    let [id, other] = [ContainerId::random(), ContainerId::random()];
    let root = roots.prepare(&id, &chain).unwrap();
    fs::write(root.join("f"), vec![1; 4 << 20]).unwrap();
    roots.snapshot(std::slice::from_ref(&id), "a").unwrap();
    fs::write(root.join("later"), "x").unwrap();
    let (mut stream, mut none) = (Vec::new(), Vec::new());
    roots.export(&id, "a", &mut stream).unwrap();
    assert!(matches!(roots.export(&id, "b", &mut none), Err(Error::NotFound { .. })));
    assert!(matches!(roots.export(&other, "a", &mut none), Err(Error::NotFound { .. })));

    // Half of a stream, something else, a volume, and streams that set properties, with holds and with several snapshots.
    let dataset_of = format!("{dataset}/containers/{id}");
    let all = |flag: &str, of: &str| {
        let mut stream = Vec::new();
        Tool::new("zfs").args(["send", flag, &format!("{of}@a")]).run_to(&mut stream).unwrap();
        stream
    };
    let volume = format!("{dataset}/volume");
    zfs(&["create", "-V", "1M", &volume]);
    zfs(&["snapshot", &format!("{volume}@a")]);
    zfs(&["set", "exec=off", &dataset_of]);
    zfs(&["hold", "mine", &format!("{dataset_of}@a")]);
    for (bad, stream) in [
        ("half", stream[..stream.len() / 2].to_vec()),
        ("text", vec![b'x'; 4096]),
        ("-hp", all("-hp", &dataset_of)),
        ("-R", all("-R", &dataset_of)),
        ("volume", all("-L", &volume)),
    ] {
        let error = roots.import("web", &mut stream.as_slice()).unwrap_err();
        assert!(!matches!(error, Error::Conflict { .. }), "{bad}: {error}");
        assert_eq!(
            zfs(&["list", "-H", "-r", "-o", "name", &format!("{dataset}/imported")]).lines().count(),
            1,
            "{bad}"
        );
        assert_eq!(aside(&dataset), Vec::<String>::new(), "{bad}");
    }
    assert!(matches!(roots.import("a/b", &mut stream.as_slice()), Err(Error::Invalid { .. })));
    assert!(matches!(roots.prepare_imported(&other, "web"), Err(Error::NotFound { .. })));

    roots.import("held", &mut all("-h", &dataset_of).as_slice()).unwrap();
    zfs(&["release", "mine", &format!("{dataset_of}@a")]);
    zfs(&["destroy", "-r", &format!("{dataset}/imported/held")]);
    zfs(&["destroy", "-r", &volume]);
    roots.import("web", &mut stream.as_slice()).unwrap();
    assert!(matches!(roots.import("web", &mut stream.as_slice()), Err(Error::Conflict { .. })));
    let made = roots.prepare_imported(&other, "web").unwrap();
    assert_eq!(roots.prepare_imported(&other, "web").unwrap(), made);
    assert!(made.join("f").exists() && !made.join("later").exists());
    roots.limit(&other, 1 << 20).unwrap();
    let quota = zfs(&["get", "-Hp", "-o", "value", "refquota", &format!("{dataset}/containers/{other}")]);
    assert!(quota.parse::<u64>().unwrap() > 5 << 20, "{quota}: what it was made from and the limit");
    assert!(roots.usage(&other).unwrap().bytes < 1 << 20, "only what it wrote itself");
    // What a server leaves that dies while it receives goes at the next start.
    zfs(&["snapshot", &format!("{dataset_of}@left")]);
    let left = format!("{dataset}/trash/imported-web-0123");
    zfs(&["clone", &format!("{dataset_of}@left"), &left]);
    zfs(&["snapshot", &format!("{left}@root")]);
    Zfs::open(directory.path(), &parent()).unwrap().sweep().unwrap();
    assert_eq!(aside(&dataset), Vec::<String>::new());
    for id in [&id, &other] {
        roots.discard(id).unwrap();
    }
    roots.remove_chain(&chain).unwrap();
    assert!(roots.inventory().unwrap().1.is_empty(), "an imported root is no container's");
    zfs(&["destroy", "-r", &format!("{dataset}/imported/web")]);
}

fn names(zfs: &Zfs, id: &ContainerId) -> Vec<String> {
    zfs.snapshots(id).unwrap().into_iter().map(|one| one.name).collect()
}

#[test]
fn a_root_goes_back_to_its_snapshots() {
    let Some(dataset) = dataset() else { return };
    let directory = tempfile::tempdir().unwrap();
    let zfs = Zfs::open(directory.path(), &parent(&dataset)).unwrap();
    let chain = ChainId(image::Digest::of(b"snapshots").to_string());
    zfs.commit(&zfs.begin(&chain, None).unwrap()).unwrap();
    let id = ContainerId::random();
    let one = std::slice::from_ref(&id);
    assert!(matches!(zfs.snapshot(one, "a"), Err(Error::NotFound { .. })));
    let root = zfs.prepare(&id, &chain).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(root.join(name), name).unwrap();
        zfs.snapshot(one, name).unwrap();
    }
    assert!(matches!(zfs.snapshot(one, "a"), Err(Error::Conflict { .. })));
    assert!(matches!(zfs.snapshot(one, "x/../y"), Err(Error::Invalid { .. })));
    assert_eq!(names(&zfs, &id), ["a", "b", "c"]);
    // Several roots at once, or none of them.
    let other = ContainerId::random();
    zfs.prepare(&other, &chain).unwrap();
    let both = [other.clone(), id.clone()];
    assert!(matches!(zfs.snapshot(&both, "c"), Err(Error::Conflict { .. })));
    assert!(names(&zfs, &other).is_empty());
    zfs.snapshot(&both, "both").unwrap();
    assert_eq!((names(&zfs, &other), names(&zfs, &id).len()), (vec!["both".to_owned()], 4));
    zfs.discard(&other).unwrap();
    let found = zfs.snapshots(&id).unwrap();
    // What keeps a later one keeps all: none is lost for a roll-back that fails.
    let held = format!("{dataset}/containers/{id}@b");
    self::zfs(&["hold", "mine", &held]);
    assert!(zfs.rollback(&id, "a").is_err());
    assert_eq!(names(&zfs, &id).len(), 4);
    self::zfs(&["release", "mine", &held]);
    assert!(found.iter().all(|one| one.referenced > 0 && one.created > 1_700_000_000), "{found:?}");
    zfs.rollback(&id, "a").unwrap();
    assert_eq!(names(&zfs, &id), ["a"]);
    assert!(root.join("a").exists() && !root.join("b").exists());
    assert!(matches!(zfs.rollback(&id, "b"), Err(Error::NotFound { .. })));
    // After a reboot the root is mounted again; a process in it does not keep it.
    nix::mount::unmount(&root, nix::mount::MntFlags::empty()).unwrap();
    assert_eq!(zfs.prepare(&id, &chain).unwrap(), root);
    let busy = fs::File::open(root.join("a")).unwrap();
    zfs.discard(&id).unwrap();
    assert!(!root.exists());
    drop(busy);
    zfs.remove_chain(&chain).unwrap();
    assert!(zfs.inventory().unwrap().1.is_empty());
}
