//! Plans the mounts of a container, in order; [`super::mounts`] makes them.

use std::collections::BTreeSet;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use host::root::Kind;

use super::devices::is_pattern_of_itself;
use crate::Error;
use crate::spec::{ContainerSpec, MountOptions, depth};

/// The mount point of devfs.
const DEV: &str = "/dev";
/// The directory of the mounts that links in /dev lead to. An image that has it changes only its own containers.
const LINKED: &str = "/.cellblock.dev";

/// The size of /dev/shm for Linux programs, in bytes, as containerd has it on Linux.
const SHM_SIZE: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedMount {
    pub(super) source: Source,
    /// The destination in the container.
    pub(super) destination: PathBuf,
    /// The mount point: the destination itself, or the target of a link in /dev.
    pub(super) place: PathBuf,
    /// Whether it is read-only.
    pub(super) readonly: bool,
    /// What its files may not be used for; a device node works in devfs only, so `nodev` always holds.
    pub(super) options: MountOptions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// nullfs(5) of a directory or file of the host.
    Null(PathBuf, Kind),
    /// tmpfs(5), with its size in bytes.
    Tmpfs(Option<u64>),
    /// devfs(5) with this ruleset (0: none).
    Devfs(u16),
    /// fdescfs(5), with links for Linux programs or without.
    Fdescfs { links: bool },
    /// A file system without a source: linprocfs(5), linsysfs(5).
    Pseudo(&'static str),
}

impl Source {
    /// The name of the file system.
    pub(super) fn file_system(&self) -> &'static str {
        match self {
            Self::Null(..) => "nullfs",
            Self::Tmpfs(_) => "tmpfs",
            Self::Devfs(_) => "devfs",
            Self::Fdescfs { .. } => "fdescfs",
            Self::Pseudo(name) => name,
        }
    }

    /// The kind of the mount point.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Null(_, kind) => *kind,
            _ => Kind::Directory,
        }
    }

    /// The options other than fstype, fspath and ro.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Null(from, _) => vec![("from", from.to_string_lossy().into_owned())],
            Self::Tmpfs(size) => {
                let size = size.iter().map(|bytes| ("size", bytes.to_string()));
                size.chain([("from", "tmpfs".to_owned()), ("mode", "1777".to_owned())]).collect()
            }
            Self::Devfs(0) => vec![("from", "devfs".to_owned())],
            Self::Devfs(ruleset) => vec![("from", "devfs".to_owned()), ("ruleset", ruleset.to_string())],
            Self::Fdescfs { links } => {
                let links = links.then(|| ("linrdlnk", String::new()));
                std::iter::once(("from", "fdescfs".to_owned())).chain(links).collect()
            }
            Self::Pseudo(name) => vec![("from", (*name).to_owned())],
        }
    }
}

/// The mounts of a container in order: first those of every container, then the spec's and the resolv.conf, from the shallowest
/// to the deepest. A mount of the spec replaces ours. Linux programs get what linux(4) and its rc script describe.
pub(super) fn mounts(
    spec: &ContainerSpec,
    sources: &[Source],
    ruleset: u16,
    resolv_conf: Option<&Path>,
) -> Vec<PlannedMount> {
    let wanted = |source: Source, at: &Path, readonly: bool| PlannedMount {
        source,
        destination: at.to_owned(),
        place: at.to_owned(),
        readonly,
        options: MountOptions::default(),
    };
    let pseudo = |source: Source, at: &str| wanted(source, Path::new(at), false);
    let own = |ours: &PlannedMount| {
        let covers = |at: &Path| at == ours.destination || (at == Path::new(DEV) && ours.destination.starts_with(DEV));
        spec.mounts.iter().any(|mount| covers(&mount.destination))
    };
    let mut first =
        vec![pseudo(Source::Devfs(ruleset), DEV), pseudo(Source::Fdescfs { links: spec.for_linux }, "/dev/fd")];
    if spec.for_linux {
        first.push(pseudo(Source::Pseudo("linprocfs"), "/proc"));
        first.push(pseudo(Source::Pseudo("linsysfs"), "/sys"));
        first.push(pseudo(Source::Tmpfs(Some(SHM_SIZE)), "/dev/shm"));
    }
    first.retain(|wanted| !own(wanted));
    let callers = spec.mounts.iter().zip(sources);
    let callers = callers.map(|(mount, source)| PlannedMount {
        options: mount.options,
        ..wanted(source.clone(), &mount.destination, mount.readonly)
    });
    let resolv_conf =
        resolv_conf.map(|path| wanted(Source::Null(path.to_owned(), Kind::File), Path::new("/etc/resolv.conf"), true));
    let mut rest: Vec<PlannedMount> = callers.chain(resolv_conf.filter(|wanted| !own(wanted))).collect();
    rest.sort_by_key(|wanted| depth(&wanted.destination));
    first.into_iter().chain(rest).collect()
}

/// Moves the mounts below /dev without a mount point there into the root, and returns the names of the links in /dev to them.
/// devfs(5) can only be given symbolic links, so the first component that it does not have becomes one; `exists` says which it
/// has.
///
/// # Errors
/// [`Error::Invalid`] for a name that a rule of devfs cannot show.
pub(super) fn link_below_dev(
    wanted: &mut [PlannedMount],
    exists: impl Fn(&str) -> bool,
) -> Result<BTreeSet<String>, Error> {
    let mut links = BTreeSet::new();
    if !wanted.iter().any(|mount| matches!(mount.source, Source::Devfs(_))) {
        return Ok(links);
    }
    for mount in wanted {
        let Some(below) = below_dev(&mount.destination) else { continue };
        let Some(Component::Normal(first)) = below.components().next() else { continue };
        let first = first.to_str().filter(|name| is_pattern_of_itself(name)).ok_or_else(|| {
            Error::invalid(
                "mounts.destination",
                format!("{}: devfs cannot show a link of this name", mount.destination.display()),
            )
        })?;
        if !exists(first) {
            mount.place = Path::new(LINKED).join(&below);
            links.insert(first.to_owned());
        }
    }
    Ok(links)
}

/// The target of the link with this name in /dev.
pub(super) fn linked(name: &str) -> PathBuf {
    Path::new(LINKED).join(name)
}

/// The path below /dev of a destination, without `.` and `..`; None: it is elsewhere.
fn below_dev(destination: &Path) -> Option<PathBuf> {
    let mut way = PathBuf::new();
    for part in destination.components() {
        match part {
            Component::Normal(name) => way.push(name),
            Component::ParentDir => drop(way.pop()),
            _ => {}
        }
    }
    way.strip_prefix("dev").ok().map(Path::to_owned)
}

/// The kind of a mount point for a file of this type; the error is the type's name.
pub(super) fn kind(of: FileType) -> Result<Kind, &'static str> {
    match of {
        _ if of.is_dir() => Ok(Kind::Directory),
        _ if of.is_file() => Ok(Kind::File),
        _ if of.is_socket() => Err("a socket"),
        _ if of.is_fifo() => Err("a fifo"),
        _ if of.is_block_device() || of.is_char_device() => Err("a device (`devices` shows one)"),
        _ => Err("a file of an unknown type"),
    }
}

/// A container for the tests of pure code.
#[cfg(test)]
pub(crate) fn example() -> ContainerSpec {
    let text = r#"{"id":"0000000000000000000000000000000000000000000000000000000000000001",
        "pod":"0000000000000000000000000000000000000000000000000000000000000002","rootfs":"/r","readonly_rootfs":false,
        "process":{"args":["sh"],"env":[],"cwd":"/","tty":false,
            "user":{"user":{"id":0},"group":null,"supplemental":[],"merge_image_groups":false}},
        "pid":"container","mounts":[],"devices":[],
        "resources":{"cpu_quota":null,"cpu_period":null,"cpu_shares":null,"memory":null,"memory_swap":null,
            "oom_score_adj":null,"cpuset_cpus":"","cpuset_mems":"","pids":null,"hugepages":{},"unified":{}},
        "security":{"privileged":false,"no_new_privileges":false,"add_capabilities":[],"drop_capabilities":[],
            "ambient_capabilities":[],"masked_paths":[],"readonly_paths":[],"seccomp":"runtime_default",
            "apparmor":"runtime_default"},
        "stdin":false,"stdin_once":false,"log_path":null}"#;
    serde_json::from_str(text).unwrap()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{PlannedMount, Source, example, link_below_dev, mounts};
    use crate::spec::{Mount, MountOptions, MountSource, Propagation};
    use host::root::Kind;

    fn mount(destination: &str) -> Mount {
        Mount {
            destination: destination.into(),
            source: MountSource::Host("/data".into()),
            readonly: true,
            recursive_readonly: false,
            propagation: Propagation::Private,
            options: MountOptions::default(),
        }
    }

    fn places(mounts: &[PlannedMount]) -> Vec<&str> {
        mounts.iter().map(|wanted| wanted.destination.to_str().unwrap()).collect()
    }

    #[test]
    fn the_callers_mounts_come_between_and_replace() {
        let mut spec = example();
        let data = Source::Null("/data".into(), Kind::Directory);
        let plain = mounts(&spec, &[], 9, Some(Path::new("/r")));
        assert_eq!(places(&plain), ["/dev", "/dev/fd", "/etc/resolv.conf"]);
        assert_eq!(plain[0].source.options(), [("from", "devfs".to_owned()), ("ruleset", "9".to_owned())]);
        spec.mounts = vec![mount("/data"), mount("/etc/resolv.conf")];
        spec.for_linux = true;
        let both = mounts(&spec, &[data.clone(), data], 9, Some(Path::new("/r")));
        assert_eq!(places(&both), ["/dev", "/dev/fd", "/proc", "/sys", "/dev/shm", "/data", "/etc/resolv.conf"]);
        assert_eq!(places(&mounts(&example(), &[], 9, None)), ["/dev", "/dev/fd"]);
        assert_eq!(both[1].source.options()[1..], [("linrdlnk", String::new())]);
        assert!(both[5].readonly && both[6].source == Source::Null("/data".into(), Kind::Directory));
    }

    #[test]
    fn a_mount_comes_before_those_below_it_and_after_those_of_its_depth_that_came_before_it() {
        let mut spec = example();
        spec.mounts = ["/m/n", "/etc", "/m", "/m/n/o", "/m/p"].map(mount).into();
        let sources = vec![Source::Tmpfs(None); spec.mounts.len()];
        let all = mounts(&spec, &sources, 9, Some(Path::new("/r")));
        assert_eq!(places(&all)[2..], ["/etc", "/m", "/m/n", "/m/p", "/etc/resolv.conf", "/m/n/o"]);
        spec.mounts = vec![mount("/dev")];
        assert_eq!(places(&mounts(&spec, &sources, 9, None)), ["/dev"], "nothing of ours lies on the caller's");
    }

    #[test]
    fn what_devfs_has_no_place_for_is_linked_from_it() {
        let mut spec = example();
        spec.mounts =
            ["/dev/termination-log", "/dev/a/b", "/dev/./a/c", "/dev/shm/x", "/x/../dev/d", "/data"].map(mount).into();
        let sources = vec![Source::Tmpfs(None); spec.mounts.len()];
        let mut all = mounts(&spec, &sources, 9, None);
        let links = link_below_dev(&mut all, |name| ["fd", "shm"].contains(&name)).unwrap();
        assert_eq!(Vec::from_iter(links), ["a", "d", "termination-log"]);
        let made: Vec<_> = all.iter().map(|wanted| wanted.place.to_str().unwrap()).collect();
        let linked = ["/.cellblock.dev/termination-log", "/.cellblock.dev/d", "/data", "/.cellblock.dev/a/b"];
        assert_eq!(made[..2], ["/dev", "/dev/fd"]);
        assert!(linked.iter().all(|place| made.contains(place)), "{made:?}");
        assert!(made.contains(&"/.cellblock.dev/a/c") && made.contains(&"/dev/shm/x"), "{made:?}");

        spec.mounts = vec![mount("/dev/*")];
        let refused = link_below_dev(&mut mounts(&spec, &sources, 9, None), |_| false).unwrap_err().to_string();
        assert!(refused.contains("/dev/*"), "{refused}");
        spec.mounts = vec![mount("/dev"), mount("/dev/x")];
        let mut all = mounts(&spec, &sources, 9, None);
        assert!(link_below_dev(&mut all, |_| false).unwrap().is_empty(), "the caller's own /dev takes files");
    }

    #[test]
    fn only_directories_and_files_are_mounted() {
        let scratch = tempfile::tempdir().unwrap();
        let socket = scratch.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let kind = |path: &Path| super::kind(std::fs::metadata(path).unwrap().file_type());
        assert_eq!(kind(scratch.path()), Ok(Kind::Directory));
        assert_eq!(kind(&std::env::current_exe().unwrap()), Ok(Kind::File));
        assert_eq!(kind(&socket), Err("a socket"));
        assert!(kind(Path::new("/dev/null")).unwrap_err().starts_with("a device"));
    }

    #[test]
    fn dev_shm_of_linux_programs_has_a_size() {
        let linux = crate::spec::ContainerSpec { for_linux: true, ..example() };
        let all = mounts(&linux, &[], 9, None);
        let shm = all.iter().find(|wanted| wanted.destination == Path::new("/dev/shm")).unwrap();
        assert_eq!(shm.source, Source::Tmpfs(Some(64 << 20)));
    }

    #[test]
    fn a_size_is_given_in_bytes() {
        assert_eq!(Source::Tmpfs(Some(4096)).options()[0], ("size", "4096".to_owned()));
        assert_eq!(Source::Tmpfs(None).options().len(), 2);
    }
}
