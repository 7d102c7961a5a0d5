//! What this backend cannot give, found before anything is made. Defaults are accepted: a caller that says nothing about
//! seccomp, AppArmor or SELinux gets what a jail gives; one that demands them gets an error.

use super::NAME;
use super::limits::Limits;
use super::rights::Rights;
use super::{devices, sysctls};
use crate::Error;
use crate::spec::{ContainerSpec, MountSource, PidScope, PodSpec, Profile, Propagation, Scope};

/// The longest host name, its NUL not counted (MAXHOSTNAMELEN in sys/param.h is 256).
const HOSTNAME_LENGTH: usize = 255;

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into(), backend: NAME }
}

fn invalid(field: &str, reason: impl Into<String>) -> Error {
    Error::Invalid { field: field.to_owned(), reason: reason.into() }
}

/// A jail never sees processes outside itself: the unset value (the pod's) and the container's own come to the same.
fn pid_scope(pid: &PidScope) -> Result<(), Error> {
    match pid {
        PidScope::Pod | PidScope::Container => Ok(()),
        PidScope::Host => Err(unsupported("seeing the host's processes")),
        PidScope::Target(_) => Err(unsupported("seeing another container's processes")),
    }
}

/// Checks a pod.
///
/// # Errors
/// [`Error::Unsupported`] or [`Error::Invalid`].
pub(super) fn pod(spec: &PodSpec) -> Result<(), Error> {
    pid_scope(&spec.pid)?;
    Limits::of(&spec.resources)?;
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
        None if spec.network == Scope::Pod => Err(invalid("hostname", "a pod with a network of its own needs one")),
        _ => Ok(()),
    }
}

/// Checks a container, and gives what it may do.
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
        if mount.propagation != Propagation::Private {
            return Err(unsupported(format!("mount propagation ({at})")));
        }
        if let MountSource::Host(source) = &mount.source
            && !source.is_absolute()
        {
            return Err(invalid("mounts.source", format!("{} is not absolute", source.display())));
        }
    }
    devices::rules(&spec.devices)?;
    Ok((Rights::of(&spec.security)?, Limits::of(&spec.resources)?))
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
