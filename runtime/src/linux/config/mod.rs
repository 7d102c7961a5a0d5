//! The runtime specification's config.json of a container. Pure, but for reading files that a spec names.

mod calls;
mod capabilities;
mod devices;
mod mounts;
mod resources;
mod seccomp;

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde_json::{Map, Value, json};

pub(super) use self::mounts::PodFiles;
pub(super) use self::resources::{Offered, limits};
use crate::Error;
use crate::spec::{ContainerSpec, Identity, Process, Profile, Security};

/// The version of the runtime specification, which runc 1.1 supports.
const OCI_VERSION: &str = "1.0.2";

/// The inputs of a container's document beside its spec.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Its user, looked up.
    pub(super) identity: Identity,
    pub(super) pod: PodFiles,
    /// The namespaces, by the specification's names, with their paths; None: a new one.
    pub(super) namespaces: Vec<(&'static str, Option<PathBuf>)>,
    /// Its cgroup, as a path from the root of the hierarchies.
    pub(super) cgroup: PathBuf,
    /// The limits that the kernel can account.
    pub(super) offered: Offered,
    /// The mask of capabilities that the server can pass on.
    pub(super) capabilities: u64,
    /// The lowest oom_score_adj that the server may give; None: any.
    pub(super) lowest_oom_score: Option<i32>,
}

/// Refuses what needs neither the container's root nor its pod to be refused. `capabilities`: as in [`Surroundings`].
///
/// # Errors
/// Those of [`document`].
pub(super) fn check(spec: &ContainerSpec, capabilities: u64) -> Result<(), Error> {
    let named = spec.jail.keys().map(|name| format!("jail parameter {name}"));
    let mut named = named.chain(spec.resources.rctl.keys().map(|name| format!("resource limit {name} of rctl(8)")));
    if let Some(what) = named.next() {
        return Err(Error::Unsupported { what, backend: super::NAME });
    }
    let capabilities = capabilities::sets(&spec.security, capabilities)?;
    devices::devices(&spec.devices, spec.security.privileged)?;
    refuse_apparmor(&spec.security)?;
    if !spec.security.privileged {
        seccomp::filter(&spec.security.seccomp, &capabilities.held)?;
    }
    Ok(())
}

/// Assembles the document.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::Unsupported`] name the field that cannot be honoured.
pub(super) fn document(spec: &ContainerSpec, around: &Surroundings) -> Result<Spec, Error> {
    let capabilities = capabilities::sets(&spec.security, around.capabilities)?;
    let mounts = mounts::mounts(spec, &around.pod)?;
    let devices = devices::devices(&spec.devices, spec.security.privileged)?;
    let mut limits = limits(&spec.resources, around.offered);
    limits["devices"] = json!(devices.rules);
    let mut linux = json!({
        "resources": limits,
        "cgroupsPath": around.cgroup,
        "namespaces": namespaces(&around.namespaces),
        "devices": devices.nodes,
    });
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            linux[name] = value;
        }
    };
    put("rootfsPropagation", mounts.propagation.map(Value::from));
    refuse_apparmor(&spec.security)?;
    if !spec.security.privileged {
        put("maskedPaths", Some(json!(spec.security.masked_paths)));
        put("readonlyPaths", Some(json!(spec.security.readonly_paths)));
        put("seccomp", seccomp::filter(&spec.security.seccomp, &capabilities.held)?);
    }
    let document = json!({
        "ociVersion": OCI_VERSION,
        "root": { "path": spec.rootfs, "readonly": spec.readonly_rootfs },
        "process": process(spec, around, &capabilities)?,
        "mounts": mounts.list,
        "linux": linux,
    });
    serde_json::from_value(document).map_err(Error::failed("cannot assemble the container's config.json"))
}

fn process(spec: &ContainerSpec, around: &Surroundings, sets: &capabilities::Sets) -> Result<Value, Error> {
    let Process { args, env, cwd, tty, user: _ } = &spec.process;
    if args.is_empty() {
        return Err(Error::invalid("process.args", "empty"));
    }
    let mut process = Map::new();
    let mut put = |name: &str, value: Value| process.insert(name.to_owned(), value);
    put("terminal", json!(tty));
    put("args", json!(args));
    put("env", env.iter().map(|(name, value)| format!("{name}={value}")).collect());
    put("cwd", json!(cwd));
    put("noNewPrivileges", json!(spec.security.no_new_privileges));
    let Identity { uid, gid, groups } = &around.identity;
    put("user", json!({ "uid": uid, "gid": gid, "additionalGids": groups }));
    put(
        "capabilities",
        json!({
            "bounding": sets.held, "permitted": sets.held, "effective": sets.held,
            "inheritable": sets.ambient, "ambient": sets.ambient,
        }),
    );
    if let Some(score) = spec.resources.oom_score_adj {
        put("oomScoreAdj", json!(clamped(score, around.lowest_oom_score)));
    }
    Ok(Value::Object(process))
}

/// Without CAP_SYS_RESOURCE the server cannot set less than its own value: it sets that, and logs it.
fn clamped(score: i32, lowest: Option<i32>) -> i32 {
    let given = lowest.map_or(score, |lowest| score.max(lowest));
    if given != score {
        tracing::warn!(wanted = score, given, "oom_score_adj cannot be lowered without CAP_SYS_RESOURCE");
    }
    given
}

fn namespaces(shared: &[(&'static str, Option<PathBuf>)]) -> Value {
    let one = |(kind, path): &(&str, Option<PathBuf>)| match path {
        Some(path) => json!({ "type": kind, "path": path }),
        None => json!({ "type": kind }),
    };
    shared.iter().map(one).collect()
}

/// This backend loads no AppArmor profile: the default is none, and a named profile is refused.
fn refuse_apparmor(security: &Security) -> Result<(), Error> {
    match &security.apparmor {
        Profile::Localhost(name) if !security.privileged => {
            Err(Error::Unsupported { what: format!("AppArmor profile {name:?}"), backend: super::NAME })
        }
        _ => Ok(()),
    }
}
