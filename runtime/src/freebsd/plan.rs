//! What is mounted into a container's root, in order: decided here, done by [`super::mounts`].

use std::path::{Path, PathBuf};

use super::resolve::Kind;
use crate::spec::{ContainerSpec, MountSource};

/// One mount that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The kind of file system.
    pub(super) source: Source,
    /// Where, as the container sees it.
    pub(super) destination: PathBuf,
    /// Whether it cannot be written.
    pub(super) readonly: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// nullfs(5) of a directory or a file of the host.
    Null(PathBuf, Kind),
    /// tmpfs(5) of so many bytes.
    Tmpfs(Option<u64>),
    /// devfs(5) with this ruleset (0: none).
    Devfs(u16),
    /// fdescfs(5); whether Linux programs are to see links in it.
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

    /// What stands where it is mounted.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Null(_, kind) => *kind,
            _ => Kind::Directory,
        }
    }

    /// Its options beside fstype, fspath and ro.
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

/// The mounts of a container: what every container has, then the caller's in its order, then its resolv.conf. What the
/// caller mounts itself is left out of the first and the last. Linux programs get what linux(4) and its rc script say.
pub(super) fn mounts(
    spec: &ContainerSpec,
    sources: &[Source],
    ruleset: u16,
    resolv_conf: Option<&Path>,
) -> Vec<Wanted> {
    let pseudo = |source: Source, at: &str| Wanted { source, destination: at.into(), readonly: false };
    let own = |wanted: &Wanted| spec.mounts.iter().any(|mount| mount.destination == wanted.destination);
    let mut first =
        vec![pseudo(Source::Devfs(ruleset), "/dev"), pseudo(Source::Fdescfs { links: spec.for_linux }, "/dev/fd")];
    if spec.for_linux {
        first.push(pseudo(Source::Pseudo("linprocfs"), "/proc"));
        first.push(pseudo(Source::Pseudo("linsysfs"), "/sys"));
        first.push(pseudo(Source::Tmpfs(None), "/dev/shm"));
    }
    first.retain(|wanted| !own(wanted));
    let callers = spec.mounts.iter().zip(sources).map(|(mount, source)| Wanted {
        source: source.clone(),
        destination: mount.destination.clone(),
        readonly: mount.readonly,
    });
    let resolv_conf = resolv_conf.map(|path| Wanted {
        source: Source::Null(path.to_owned(), Kind::File),
        destination: "/etc/resolv.conf".into(),
        readonly: true,
    });
    let last = resolv_conf.filter(|wanted| !own(wanted));
    first.into_iter().chain(callers).chain(last).collect()
}

/// The source of a caller's mount, once it is known what stands on the host.
pub(super) fn source(source: &MountSource, on_host: impl FnOnce(&Path) -> Source) -> Source {
    match source {
        MountSource::Host(path) => on_host(path),
        MountSource::Tmpfs { size } => Source::Tmpfs(*size),
    }
}

/// A container as the tests of pure code want it.
#[cfg(test)]
pub(super) fn example() -> ContainerSpec {
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

    use super::{Source, Wanted, example, mounts};
    use crate::freebsd::resolve::Kind;
    use crate::spec::{Mount, MountSource, Propagation};

    fn mount(destination: &str) -> Mount {
        Mount {
            destination: destination.into(),
            source: MountSource::Host("/data".into()),
            readonly: true,
            recursive_readonly: false,
            propagation: Propagation::Private,
        }
    }

    fn places(mounts: &[Wanted]) -> Vec<&str> {
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
    fn a_size_is_given_in_bytes() {
        assert_eq!(Source::Tmpfs(Some(4096)).options()[0], ("size", "4096".to_owned()));
        assert_eq!(Source::Tmpfs(None).options().len(), 2);
    }
}
