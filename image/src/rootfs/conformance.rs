//! The conformance suite of the backends: the fake, copies, overlayfs and ZFS pass it. Each check creates its chains and
//! containers and removes them; the inventory is empty afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use host::ContainerId;

use super::{ChainId, Chains, FsUsage, Rootfs};
use crate::{Digest, Error};

/// Opens the backend again on the same state, as a restarted server does.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn Rootfs>;

type Check = fn(Open<'_>);

/// Runs every check.
///
/// # Panics
/// If a check fails.
pub fn run(open: Open<'_>) {
    let checks: [(&str, Check); 9] = [
        ("a chain is there when it is committed", committed),
        ("what was begun is begun anew", begun_anew),
        ("an upper layer changes what shows and not what is below", layered),
        ("a root is private and has every attribute", private),
        ("a root is made once and removed twice", repeated),
        ("a chain in use stays", in_use),
        ("a chain that is a container's root stays and is not counted", shared),
        ("an image volume shows the chain", volume),
        ("what is not there is not found", missing),
    ];
    for (name, check) in checks {
        eprintln!("{}: {name}", open().name());
        check(open);
        assert_eq!(inventory(&*open()), (vec![], vec![]), "{name}: something is left");
    }
}

fn chain(name: &str) -> ChainId {
    ChainId(Digest::of(name.as_bytes()).to_string())
}

fn done<T>(what: &str, result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {}", host::chain(&error)))
}

fn io<T>(what: &Path, result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{}: {error}", what.display()))
}

fn write(path: &Path, contents: &str) {
    io(path, fs::write(path, contents));
}

fn inventory(rootfs: &dyn Rootfs) -> (Vec<ChainId>, Vec<ContainerId>) {
    let (mut chains, mut containers) = done("inventory", rootfs.inventory());
    chains.sort();
    containers.sort();
    (chains, containers)
}

/// Makes a chain whose layer `fill` writes.
fn make(rootfs: &dyn Rootfs, name: &str, parent: Option<&ChainId>, fill: impl FnOnce(&Path)) -> ChainId {
    let unpacking = done("begin", rootfs.begin(&chain(name), parent));
    fill(&unpacking.directory);
    done("commit", rootfs.commit(&unpacking));
    unpacking.chain
}

/// Unpacks a layer of these entries, empty files, directories and files with contents, on top of a chain. `linked` is a link.
fn unpack(rootfs: &dyn Rootfs, name: &str, parent: &ChainId, entries: &[(&str, &str)]) -> ChainId {
    let unpacking = done("begin", rootfs.begin(&chain(name), Some(parent)));
    let mut layer = tar::Builder::new(Vec::new());
    for (path, contents) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_mtime(0);
        header.set_size(0);
        let path = Path::new(path);
        let added = if path.ends_with("linked") {
            header.set_entry_type(tar::EntryType::Link);
            layer.append_link(&mut header, path, contents)
        } else {
            header.set_size(contents.len() as u64);
            layer.append_data(&mut header, path, contents.as_bytes())
        };
        io(path, added);
    }
    let layer = io(&unpacking.directory, layer.into_inner());
    let open = |directory: &PathBuf| io(directory, fs::File::open(directory)).into();
    let unpacked = crate::unpack::unpack(&*layer, 0, open(&unpacking.directory), unpacking.below.as_ref().map(open));
    assert!(unpacked.is_ok(), "{name}: {unpacked:?}");
    done("commit", rootfs.commit(&unpacking));
    unpacking.chain
}

fn remove(rootfs: &dyn Rootfs, chains: &[&ChainId]) {
    chains.iter().for_each(|chain| done("remove chain", rootfs.remove_chain(chain)));
}

fn committed(open: Open<'_>) {
    let rootfs = open();
    let unpacking = done("begin", rootfs.begin(&chain("a"), None));
    write(&unpacking.directory.join("f"), "contents");
    assert!(!done("has", rootfs.has(&unpacking.chain)), "not before it is whole");
    assert!(inventory(&*rootfs).0.is_empty());
    done("commit", rootfs.commit(&unpacking));
    done("commit again", rootfs.commit(&unpacking));
    let rootfs = open();
    assert!(done("has", rootfs.has(&unpacking.chain)), "after a restart too");
    assert_eq!(inventory(&*rootfs).0, std::slice::from_ref(&unpacking.chain));
    assert!(done("usage", rootfs.chain_usage(&unpacking.chain)).bytes > 0);
    remove(&*rootfs, &[&unpacking.chain, &unpacking.chain]);
    assert!(!done("has", rootfs.has(&unpacking.chain)));
}

fn begun_anew(open: Open<'_>) {
    let rootfs = open();
    let first = done("begin", rootfs.begin(&chain("a"), None));
    write(&first.directory.join("stale"), "x");
    let second = done("begin again", rootfs.begin(&chain("a"), None));
    assert!(!second.directory.join("stale").exists(), "a former attempt left something");
    write(&second.directory.join("stale"), "x");
    // A restart while it is unpacked: the chain does not exist, and can be made.
    let rootfs = open();
    assert!(!done("has", rootfs.has(&chain("a"))));
    done("sweep", rootfs.sweep());
    done("sweep again", rootfs.sweep());
    let below = make(&*rootfs, "a", None, |root| assert!(!root.join("stale").exists()));
    let upper = done("begin", rootfs.begin(&chain("b"), Some(&below)));
    done("remove what was begun", rootfs.remove_chain(&upper.chain));
    done("begin", rootfs.begin(&chain("c"), Some(&below)));
    let rootfs = open();
    done("sweep", rootfs.sweep());
    remove(&*rootfs, &[&below]);
}

fn layered(open: Open<'_>) {
    let rootfs = open();
    let lowest = make(&*rootfs, "a", None, |root| {
        io(root, fs::create_dir_all(root.join("d/e")));
        io(root, fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o1777)));
        ["keep", "gone", "d/change", "d/e/deep"].iter().for_each(|name| write(&root.join(name), "lower"));
    });
    let middle = [(".wh.gone", ""), ("d/.wh.e", ""), ("d/e/", ""), ("d/change", "upper")];
    let middle = unpack(&*rootfs, "b", &lowest, &middle);
    // Through two chains, and by a link to a file of the lowest.
    let top = unpack(&*rootfs, "c", &middle, &[("d/linked", "keep"), ("top", "top")]);
    let ids = [ContainerId::random(), ContainerId::random()];
    let upper = done("prepare", rootfs.prepare(&ids[0], &top));
    let lower = done("prepare", rootfs.prepare(&ids[1], &lowest));
    assert_eq!(io(&upper, fs::read_to_string(upper.join("d/change"))), "upper");
    assert!(upper.join("keep").exists() && upper.join("top").exists());
    assert_eq!(io(&upper, fs::read_to_string(upper.join("d/linked"))), "lower");
    assert!(!upper.join("gone").exists() && !upper.join("d/e/deep").exists() && upper.join("d/e").is_dir());
    assert_eq!(io(&upper, fs::metadata(upper.join("d"))).mode() & 0o7777, 0o1777, "a directory keeps its mode");
    assert_eq!(io(&lower, fs::read_to_string(lower.join("d/change"))), "lower", "the layer below is as it was");
    assert!(lower.join("gone").exists() && lower.join("d/e/deep").exists());
    ids.iter().for_each(|id| done("discard", rootfs.discard(id)));
    remove(&*rootfs, &[&top, &middle, &lowest]);
}

fn private(open: Open<'_>) {
    let rootfs = open();
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_000);
    let image = make(&*rootfs, "a", None, |root| {
        write(&root.join("f"), "contents");
        io(root, fs::hard_link(root.join("f"), root.join("g")));
        io(root, symlink("/somewhere/else", root.join("link")));
        io(root, fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o4755)));
        io(root, fs::File::open(root.join("f")).and_then(|file| file.set_modified(time)));
    });
    let ids = [ContainerId::random(), ContainerId::random()];
    let [one, other] = [0, 1].map(|at| done("prepare", rootfs.prepare(&ids[at], &image)));
    let (file, link) = (io(&one, fs::metadata(one.join("f"))), io(&one, fs::metadata(one.join("g"))));
    assert_eq!((file.mode() & 0o7777, file.nlink(), file.ino()), (0o4755, 2, link.ino()));
    assert_eq!(io(&one, file.modified()), time);
    assert_eq!(io(&one, fs::read_link(one.join("link"))), Path::new("/somewhere/else"));
    assert_eq!(io(&one, fs::metadata(&one)).mode() & 0o7777, 0o755, "the root's own mode");
    let before = done("usage", rootfs.usage(&ids[0]));
    write(&one.join("new"), &"x".repeat(1 << 20));
    io(&one, fs::remove_file(one.join("f")));
    assert!(other.join("f").exists() && !other.join("new").exists(), "another's root is another's");
    // ZFS counts written transaction groups, one every few seconds.
    let grown = (0..100).any(|_| {
        let now = done("usage", rootfs.usage(&ids[0]));
        std::thread::sleep(Duration::from_millis(if now.bytes >= before.bytes + (1 << 19) { 0 } else { 200 }));
        now.bytes >= before.bytes + (1 << 19)
    });
    assert!(grown || rootfs.name() == "zfs", "what is written is counted");
    ids.iter().for_each(|id| done("discard", rootfs.discard(id)));
    remove(&*rootfs, &[&image]);
}

fn repeated(open: Open<'_>) {
    let rootfs = open();
    let image = make(&*rootfs, "a", None, |root| write(&root.join("f"), "x"));
    let id = ContainerId::random();
    let root = done("prepare", rootfs.prepare(&id, &image));
    write(&root.join("mine"), "x");
    let rootfs = open();
    assert_eq!(done("prepare again", rootfs.prepare(&id, &image)), root);
    assert!(root.join("mine").exists(), "the one that is there");
    assert_eq!(inventory(&*rootfs).1, std::slice::from_ref(&id));
    done("discard", rootfs.discard(&id));
    done("discard again", rootfs.discard(&id));
    done("discard what never was", rootfs.discard(&ContainerId::random()));
    assert!(!root.exists());
    remove(&*rootfs, &[&image]);
}

fn in_use(open: Open<'_>) {
    let rootfs = open();
    let lower = make(&*rootfs, "a", None, |root| write(&root.join("f"), "x"));
    let upper = make(&*rootfs, "b", Some(&lower), |root| write(&root.join("g"), "x"));
    let conflict =
        |chain: &ChainId| assert!(matches!(rootfs.remove_chain(chain), Err(Error::Conflict { .. })), "{chain:?} went");
    if rootfs.chains() == Chains::Trees {
        remove(&*rootfs, &[&lower]);
    } else {
        conflict(&lower);
    }
    let ids = [ContainerId::random(), ContainerId::random()];
    let root = done("prepare", rootfs.prepare(&ids[0], &upper));
    conflict(&upper);
    assert!(root.join("f").exists() && root.join("g").exists(), "the root is whole");
    done("volume", rootfs.volume(&ids[1], &upper));
    done("discard", rootfs.discard(&ids[0]));
    conflict(&upper);
    done("discard", rootfs.discard(&ids[1]));
    remove(&*rootfs, &[&upper, &lower]);
}

fn shared(open: Open<'_>) {
    let rootfs = open();
    let image = make(&*rootfs, "a", None, |root| write(&root.join("f"), "x"));
    let id = ContainerId::random();
    assert_eq!(done("share", rootfs.share(&id, &image, &|_| false)), None);
    assert!(inventory(&*rootfs).1.is_empty(), "nothing is made for a chain that does not fit");
    let share = |rootfs: &dyn Rootfs| done("share", rootfs.share(&id, &image, &|root| root.join("f").exists()));
    if let Some(root) = share(&*rootfs) {
        let rootfs = open();
        assert_eq!(share(&*rootfs), Some(root.clone()), "after a restart too");
        assert_eq!(inventory(&*rootfs).1, std::slice::from_ref(&id));
        assert_eq!(done("usage", rootfs.usage(&id)), FsUsage::default());
        assert!(matches!(rootfs.remove_chain(&image), Err(Error::Conflict { .. })), "it is in use");
        assert!(matches!(rootfs.snapshot(std::slice::from_ref(&id), "a"), Err(Error::Unsupported { .. })));
        done("discard", rootfs.discard(&id));
        assert!(root.join("f").exists(), "the chain is no container's to remove");
    }
    let own = done("prepare", rootfs.prepare(&id, &image));
    assert_eq!(share(&*rootfs), None, "a container with a root keeps it");
    write(&own.join("new"), "x");
    assert!(done("usage", rootfs.usage(&id)).inodes > 0, "its own root is counted");
    done("discard", rootfs.discard(&id));
    remove(&*rootfs, &[&image]);
}

fn volume(open: Open<'_>) {
    let rootfs = open();
    let lower = make(&*rootfs, "a", None, |root| write(&root.join("f"), "x"));
    let upper = make(&*rootfs, "b", Some(&lower), |root| write(&root.join("g"), "x"));
    let id = ContainerId::random();
    let root = done("prepare", rootfs.prepare(&id, &lower));
    for chain in [&upper, &lower] {
        let volume = done("volume", rootfs.volume(&id, chain));
        assert_eq!(done("volume again", rootfs.volume(&id, chain)), volume);
        assert!(volume.join("f").exists() && volume != root);
        // The copy backend leaves read-only to the mount of the volume.
        if !matches!(rootfs.name(), "copy" | "fake") {
            assert!(fs::write(volume.join("new"), "x").is_err(), "it is read-only");
        }
    }
    done("discard", rootfs.discard(&id));
    remove(&*rootfs, &[&upper, &lower]);
}

fn missing(open: Open<'_>) {
    let rootfs = open();
    let (id, none) = (ContainerId::random(), chain("none"));
    assert!(matches!(rootfs.begin(&chain("a"), Some(&none)), Err(Error::NotFound { .. })));
    assert!(matches!(rootfs.prepare(&id, &none), Err(Error::NotFound { .. })));
    assert!(matches!(rootfs.volume(&id, &none), Err(Error::NotFound { .. })));
    assert!(matches!(rootfs.chain_usage(&none), Err(Error::NotFound { .. })));
    assert!(matches!(rootfs.usage(&id), Err(Error::NotFound { .. })));
    done("remove what is not there", rootfs.remove_chain(&none));
    let hostile = ChainId("sha256:../../../../etc".to_owned());
    assert!(matches!(rootfs.begin(&hostile, None), Err(Error::Invalid { .. })));
    assert!(matches!(rootfs.remove_chain(&hostile), Err(Error::Invalid { .. })));
}
