//! Refuses what this backend cannot give, before anything is made. Defaults are accepted: a caller that says nothing about
//! seccomp, AppArmor or SELinux gets what a jail gives; one that demands them gets an error.

use std::path::Component;

use super::NAME;
use super::limits::Limits;
use super::rights::Rights;
use super::{devices, requested, sysctls};
use crate::Error;
use crate::spec::{ContainerSpec, MountSource, PidScope, PodSpec, Profile, Propagation, Scope};

/// The longest host name, without its NUL (MAXHOSTNAMELEN in sys/param.h is 256).
const HOSTNAME_LENGTH: usize = 255;

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into(), backend: NAME }
}

fn invalid(field: &str, reason: impl Into<String>) -> Error {
    Error::invalid(field, reason)
}

/// A jail never sees processes outside itself: the unset value (the pod's) and the container's mean the same.
fn pid_scope(pid: &PidScope) -> Result<(), Error> {
    match pid {
        PidScope::Pod | PidScope::Container => Ok(()),
        PidScope::Host => Err(unsupported("seeing the host's processes")),
        PidScope::Target(_) => Err(unsupported("seeing another container's processes")),
    }
}

/// Checks a pod. A parameter of jails may need a module of the kernel, or a newer kernel.
///
/// # Errors
/// [`Error::Unsupported`] or [`Error::Invalid`].
pub(super) fn pod(spec: &PodSpec, kernel_has: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    pid_scope(&spec.pid)?;
    Limits::of(&spec.resources)?;
    for name in &spec.jail {
        requested::check_name(name)?;
        if !kernel_has(name) {
            return Err(unsupported(format!("jail parameter {name}, which this kernel does not have")));
        }
    }
    for name in spec.sysctls.keys() {
        sysctls::check(name)?;
        if spec.network == Scope::Host {
            return Err(invalid("sysctls", format!("{name} would change the host: the pod is on its network")));
        }
    }
    match &spec.hostname {
        Some(name) if name.len() > HOSTNAME_LENGTH || name.contains('\0') => {
            Err(invalid("hostname", format!("{name:?} has more than {HOSTNAME_LENGTH} characters")))
        }
        _ => Ok(()),
    }
}

/// Checks a container, and returns its rights and limits.
///
/// # Errors
/// [`Error::Unsupported`] or [`Error::Invalid`].
pub(super) fn container(spec: &ContainerSpec) -> Result<(Rights, Limits), Error> {
    pid_scope(&spec.pid)?;
    if spec.process.args.is_empty() {
        return Err(invalid("process.args", "there is no program"));
    }
    for (field, text) in texts(spec) {
        if text.contains('\0') {
            return Err(invalid(field, format!("{text:?} has a NUL")));
        }
    }
    for (what, profile) in [("seccomp", &spec.security.seccomp), ("AppArmor", &spec.security.apparmor)] {
        if let Profile::Localhost(name) = profile {
            return Err(unsupported(format!("the {what} profile {name}")));
        }
    }
    for mount in &spec.mounts {
        let at = mount.destination.display();
        if !mount.destination.is_absolute() {
            return Err(invalid("mounts.destination", format!("{at} is not absolute")));
        }
        if mount.destination.components().all(|part| matches!(part, Component::RootDir | Component::CurDir)) {
            return Err(invalid("mounts.destination", format!("{at} is the container's root")));
        }
        // HostToContainer is accepted: the agents that ask for it read what is mounted already. container::create says so.
        if mount.propagation == Propagation::Bidirectional {
            return Err(unsupported(format!("bidirectional mount propagation ({at})")));
        }
        if let MountSource::Host(source) = &mount.source
            && !source.is_absolute()
        {
            return Err(invalid("mounts.source", format!("{} is not absolute", source.display())));
        }
    }
    devices::rules(&spec.devices)?;
    Ok((Rights::of_container(spec)?, Limits::of(&spec.resources)?))
}

fn texts(spec: &ContainerSpec) -> impl Iterator<Item = (&'static str, &str)> {
    let args = spec.process.args.iter().map(|arg| ("process.args", arg.as_str()));
    let env = spec
        .process
        .env
        .iter()
        .flat_map(|(name, value)| [("process.env", name.as_str()), ("process.env", value.as_str())]);
    args.chain(env)
}

#[cfg(test)]
mod tests {
    use super::{container, pod};
    use crate::Error;
    use crate::freebsd::mount_plan::example;
    use crate::spec::{
        ContainerSpec, Device, Mount, MountOptions, MountSource, PidScope, PodSpec, Profile, Propagation, Resources,
        Scope,
    };

    fn pod_spec() -> PodSpec {
        PodSpec {
            id: host::PodId::random(),
            title: "default/web".to_owned(),
            hostname: Some("web".to_owned()),
            network: Scope::Pod,
            ipc: Scope::Pod,
            pid: PidScope::Pod,
            resolv_conf: None,
            sysctls: std::collections::BTreeMap::new(),
            cgroup_parent: Some("/kubepods".to_owned()),
            privileged: true,
            resources: Resources { cpu_shares: Some(2), oom_score_adj: Some(-998), ..Resources::default() },
            jail: ["allow.mlock".to_owned()].into(),
            filter: None,
        }
    }

    fn mount(destination: &str) -> Mount {
        Mount {
            destination: destination.into(),
            source: MountSource::Host("/data".into()),
            readonly: true,
            recursive_readonly: true,
            propagation: Propagation::Private,
            options: MountOptions::default(),
        }
    }

    #[test]
    fn what_a_pod_cannot_have_is_refused() {
        let has = |name: &str| name != "allow.vmm";
        pod(&pod_spec(), &has).unwrap();
        let sysctls = |name: &str| [(name.to_owned(), "1".to_owned())].into();
        let long = "a".repeat(256);
        let cases = [
            ("processes", PodSpec { pid: PidScope::Host, ..pod_spec() }),
            ("kern.x", PodSpec { sysctls: sysctls("kern.x"), ..pod_spec() }),
            ("host", PodSpec { sysctls: sysctls("net.inet.ip.ttl"), network: Scope::Host, ..pod_spec() }),
            ("allow.vmm", PodSpec { jail: ["allow.vmm".to_owned()].into(), ..pod_spec() }),
            ("vnet", PodSpec { jail: ["vnet".to_owned()].into(), ..pod_spec() }),
            ("255", PodSpec { hostname: Some(long), ..pod_spec() }),
            (
                "cpuset_mems",
                PodSpec { resources: Resources { cpuset_mems: "a".into(), ..Resources::default() }, ..pod_spec() },
            ),
        ];
        for (named, spec) in cases {
            let error = pod(&spec, &has).unwrap_err();
            assert!(error.to_string().contains(named), "{named}: {error}");
        }
    }

    /// A change to a container's spec, and the name in the error.
    type Case = (&'static str, fn(&mut ContainerSpec));

    #[test]
    fn what_a_container_cannot_have_is_refused() {
        let mut spec = example();
        spec.mounts = vec![mount("/data"), Mount { propagation: Propagation::HostToContainer, ..mount("/host") }];
        spec.security.seccomp = Profile::Unconfined;
        container(&spec).unwrap();
        let cases: [Case; 10] = [
            ("program", |spec| spec.process.args.clear()),
            ("NUL", |spec| spec.process.env.push(("A".to_owned(), "b\0c".to_owned()))),
            ("mine.json", |spec| spec.security.seccomp = Profile::Localhost("mine.json".to_owned())),
            ("AppArmor", |spec| spec.security.apparmor = Profile::Localhost("mine".to_owned())),
            ("relative", |spec| spec.mounts = vec![mount("relative")]),
            ("root", |spec| spec.mounts = vec![mount("/./")]),
            ("propagation", |spec| {
                spec.mounts = vec![Mount { propagation: Propagation::Bidirectional, ..mount("/data") }];
            }),
            ("osreldate", |spec| spec.jail = [("osreldate".to_owned(), "0".to_owned())].into()),
            ("NET_ADMIN", |spec| spec.security.add_capabilities = vec!["NET_ADMIN".to_owned()]),
            ("/etc/x", |spec| {
                let path = std::path::PathBuf::from("/etc/x");
                let (source, destination) = (path.clone(), path);
                spec.devices = vec![Device { source, destination, read: true, write: true, mknod: true }];
            }),
        ];
        for (named, change) in cases {
            let mut spec = example();
            change(&mut spec);
            let error = container(&spec).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. } | Error::Unsupported { .. }));
            assert!(error.to_string().contains(named), "{named}: {error}");
        }
    }
}
