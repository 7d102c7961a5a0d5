//! The parameters of a jail (jail(8)) as a list for jail_set(2), which `sys` gives to the kernel.

use std::collections::BTreeSet;
use std::path::Path;

use super::record::ContainerRecord;
use super::requested;
use super::rights::Rights;
use super::userland::Release;
use crate::spec::{ContainerSpec, PodSpec, Scope};

/// The jail gets a new one (JAIL_SYS_NEW in sys/jail.h).
pub(super) const NEW: i32 = 1;
/// The jail sees its parent's (JAIL_SYS_INHERIT).
pub(super) const INHERIT: i32 = 2;
/// The limit on a pod's containers and the jails below these. The kernel's default is none.
const CHILDREN_MAX: i32 = 1024;
/// A container sees the mounts below its root (jail(8)), as on Linux.
const CONTAINER_STATFS: i32 = 1;
/// The key in `meta` (jail(8), since FreeBSD 15.0) by which jls(8) tells an administrator whose a jail is.
const TITLE: &str = "meta.cellblock";
/// The parameters of the System V IPC objects.
const SYSV: [&str; 3] = ["sysvmsg", "sysvsem", "sysvshm"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A flag, set by its name alone (`persist`, `allow.nomount`).
    Flag,
    /// A number.
    Number(i32),
    /// A text.
    Text(String),
}

/// Parameters, in the kernel's order.
pub(super) type Params = Vec<(String, Value)>;

fn number(name: &str, value: i32) -> (String, Value) {
    (name.to_owned(), Value::Number(value))
}

fn text(name: &str, value: impl Into<String>) -> (String, Value) {
    (name.to_owned(), Value::Text(value.into()))
}

fn flag(name: impl Into<String>) -> (String, Value) {
    (name.into(), Value::Flag)
}

/// `allow.NAME` or `allow.noNAME` (`allow.mount.nodevfs`) for every parameter of this kernel.
fn allow(allowed: &BTreeSet<&'static str>, kernel_has: &dyn Fn(&str) -> bool) -> Params {
    let all = Rights::all_parameters();
    let known = all.into_iter().filter(|name| kernel_has(&format!("allow.{name}")));
    known
        .map(|name| match (allowed.contains(name), name.rsplit_once('.')) {
            (true, _) => flag(format!("allow.{name}")),
            (false, Some((group, last))) => flag(format!("allow.{group}.no{last}")),
            (false, None) => flag(format!("allow.no{name}")),
        })
        .collect()
}

/// The title of a pod or a container, where the kernel has a place for it.
fn title(title: &str, kernel_has: &dyn Fn(&str) -> bool) -> Option<(String, Value)> {
    (!title.is_empty() && kernel_has("meta")).then(|| text(TITLE, title))
}

/// The jail of a pod. `root` is no parent of its containers' roots, which need not lie below it, and cannot be changed later.
pub(super) fn pod(name: &str, spec: &PodSpec, root: &Path, kernel_has: &dyn Fn(&str) -> bool) -> Params {
    let mut params = fixed(name, root, spec.network);
    match &spec.hostname {
        Some(hostname) => params.extend([number("host", NEW), text("host.hostname", hostname)]),
        None => params.push(number("host", INHERIT)),
    }
    params.extend(changeable(spec.ipc, kernel_has));
    params.extend(extra(spec));
    params.extend(title(&spec.title, kernel_has));
    params
}

/// What a pod's jail allows beyond [`Rights::of_pod`], since its containers ask for it.
fn extra(spec: &PodSpec) -> impl Iterator<Item = (String, Value)> {
    spec.jail.iter().filter(|name| requested::is_extra(name)).map(flag)
}

/// The jail of a spare: everything that can be changed later has a value that its pod changes.
pub(super) fn spare(name: &str, root: &Path, kernel_has: &dyn Fn(&str) -> bool) -> Params {
    let mut params = fixed(name, root, Scope::Pod);
    params.extend([number("host", NEW), text("host.hostname", name)]);
    params.extend(changeable(Scope::Pod, kernel_has));
    params
}

/// The changes by JAIL_UPDATE that make a spare the pod of a spec; None: it cannot become this pod.
pub(super) fn spare_to_pod(name: &str, spec: &PodSpec, kernel_has: &dyn Fn(&str) -> bool) -> Option<Params> {
    // A jail's path cannot be changed, and rules need another than a spare's.
    let hostname = spec.hostname.as_ref().filter(|_| spec.network == Scope::Pod && spec.filter.is_none())?;
    let mut params = vec![text("name", name), text("host.hostname", hostname)];
    params.extend(SYSV.map(|kind| number(kind, shared(spec.ipc))));
    params.extend(extra(spec));
    params.extend(title(&spec.title, kernel_has));
    Some(params)
}

/// Gives a jail its own System V objects by JAIL_UPDATE, so that these end with it. Before, they are its parent's or the
/// host's, and the kernel keeps what the jail made: each object references the jail, which stays dying for ever with its pod's
/// network (`shm_prison_remove` and `shm_prison_cleanup` in kern/sysv_shm.c, and their like for the others).
pub(super) fn own_ipc() -> Params {
    SYSV.map(|kind| number(kind, NEW)).into()
}

fn shared(scope: Scope) -> i32 {
    match scope {
        Scope::Pod => NEW,
        Scope::Host => INHERIT,
    }
}

fn fixed(name: &str, root: &Path, network: Scope) -> Params {
    let mut params = vec![text("name", name), text("path", root.to_string_lossy()), flag("persist")];
    match network {
        Scope::Pod => params.push(number("vnet", NEW)),
        Scope::Host => params.extend([number("ip4", INHERIT), number("ip6", INHERIT)]),
    }
    params
}

fn changeable(ipc: Scope, kernel_has: &dyn Fn(&str) -> bool) -> Params {
    let mut params: Params = SYSV.map(|kind| number(kind, shared(ipc))).into();
    params.extend([
        number("children.max", CHILDREN_MAX),
        number("enforce_statfs", 0),
        number("devfs_ruleset", 0),
        number("securelevel", -1),
    ]);
    params.extend(pod_rights(kernel_has));
    params
}

/// The rights of a pod's jail for containers that may mount: the parameter of a file system appears with its module, which may
/// have been loaded after the pod was created. Takes nothing away that one of its containers asked for.
pub(super) fn pod_rights(kernel_has: &dyn Fn(&str) -> bool) -> Params {
    let all = Rights::of_pod().allow.into_iter().map(|name| format!("allow.{name}"));
    all.filter(|name| kernel_has(name)).map(flag).collect()
}

/// The jail of a container, always explicit: a child inherits nothing by itself, but the kernel's release.
/// The spec's own parameters come last; `rights` have its `allow.*` already.
pub(super) fn container(
    record: &ContainerRecord,
    spec: &ContainerSpec,
    rights: &Rights,
    kernel_has: &dyn Fn(&str) -> bool,
) -> Params {
    let mut params = vec![
        text("name", &record.jail),
        text("path", record.root.to_string_lossy()),
        flag("persist"),
        // Without these two it has no sockets at all.
        number("ip4", INHERIT),
        number("ip6", INHERIT),
        number("host", INHERIT),
        // Otherwise it could rename its pod.
        flag("allow.noset_hostname"),
        number("enforce_statfs", CONTAINER_STATFS),
        number("devfs_ruleset", i32::from(record.ruleset)),
        number("securelevel", rights.securelevel),
    ];
    params.extend(SYSV.map(|kind| number(kind, INHERIT)));
    if let Some(Release { name, date }) = &record.release {
        let image = [Some(text("osrelease", name)), date.map(|date| number("osreldate", date))];
        params.extend(image.into_iter().flatten().filter(|(name, _)| !spec.jail.contains_key(name)));
    }
    params.extend(requested::params(&spec.jail));
    params.extend(allow(&rights.allow, kernel_has));
    params.extend(title(&spec.title, kernel_has));
    params
}

/// The parameters as a JSON object, in which a flag is true.
pub(super) fn document(params: &Params) -> serde_json::Value {
    let value = |value: &Value| match value {
        Value::Flag => serde_json::Value::Bool(true),
        Value::Number(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
    };
    params.iter().map(|(name, of)| (name.clone(), value(of))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use host::PodId;

    use super::{INHERIT, NEW, Params, Value, container, document, pod, spare, spare_to_pod};
    use crate::freebsd::mount_plan::example;
    use crate::freebsd::record::ContainerRecord;
    use crate::freebsd::rights::Rights;
    use crate::freebsd::userland::Release;
    use crate::spec::{ContainerSpec, Identity, PidScope, PodSpec, Resources, Scope};

    fn spec() -> PodSpec {
        PodSpec {
            id: PodId::random(),
            title: "default/web-0".to_owned(),
            hostname: Some("web-0".to_owned()),
            network: Scope::Pod,
            ipc: Scope::Pod,
            pid: PidScope::Container,
            resolv_conf: None,
            sysctls: BTreeMap::new(),
            cgroup_parent: None,
            privileged: false,
            resources: Resources::default(),
            jail: BTreeSet::new(),
            filter: None,
        }
    }

    fn get<'a>(params: &'a Params, name: &str) -> Option<&'a Value> {
        let mut found = params.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        let first = found.next();
        assert!(found.next().is_none(), "{name} is there once");
        first
    }

    #[test]
    fn a_pod_has_a_network_and_a_name_of_its_own() {
        let params = pod("cb1", &spec(), Path::new("/empty"), &|_| true);
        let cases = [
            ("vnet", Some(Value::Number(NEW))),
            ("host", Some(Value::Number(NEW))),
            ("host.hostname", Some(Value::Text("web-0".to_owned()))),
            ("path", Some(Value::Text("/empty".to_owned()))),
            ("persist", Some(Value::Flag)),
            ("sysvshm", Some(Value::Number(NEW))),
            ("meta.cellblock", Some(Value::Text("default/web-0".to_owned()))),
            ("enforce_statfs", Some(Value::Number(0))),
            ("ip4", None),
        ];
        for (name, value) in cases {
            assert_eq!(get(&params, name), value.as_ref(), "{name}");
        }
    }

    #[test]
    fn a_pod_on_the_host_inherits() {
        let spec = PodSpec { network: Scope::Host, ipc: Scope::Host, hostname: None, ..spec() };
        let params = pod("cb1", &spec, Path::new("/empty"), &|_| true);
        for name in ["ip4", "ip6", "host", "sysvmsg", "sysvsem", "sysvshm"] {
            assert_eq!(get(&params, name), Some(&Value::Number(INHERIT)), "{name}");
        }
        assert_eq!(get(&params, "vnet"), None);
    }

    #[test]
    fn a_jail_that_ends_takes_its_ipc_objects_with_it() {
        let params = super::own_ipc();
        for name in ["sysvmsg", "sysvsem", "sysvshm"] {
            assert_eq!(get(&params, name), Some(&Value::Number(NEW)), "{name}");
        }
        assert_eq!(params.len(), 3);
    }

    #[test]
    fn parameters_that_the_kernel_does_not_have_are_left_out() {
        let params = pod("cb1", &spec(), Path::new("/empty"), &|name| !["allow.extattr", "meta"].contains(&name));
        assert_eq!((get(&params, "allow.extattr"), get(&params, "meta.cellblock")), (None, None));
        let changed = spare_to_pod("cb1", &spec(), &|_| false).unwrap();
        assert_eq!(get(&changed, "meta.cellblock"), None);
        assert_eq!(get(&params, "allow.mount.devfs"), Some(&Value::Flag));
    }

    #[test]
    fn a_container_is_explicit() {
        let rights = Rights { allow: ["raw_sockets"].into(), securelevel: 2, all_devices: false };
        let identity = Identity { uid: 0, gid: 0, groups: Vec::new() };
        let mut record = ContainerRecord::new("cb1.c2".to_owned(), "cb1".to_owned(), "/r".into(), identity);
        record.ruleset = 77;
        let mut spec = ContainerSpec { title: "default/web-0/main".to_owned(), ..example() };
        let params = container(&record, &spec, &rights, &|_| true);
        for name in ["ip4", "ip6", "host", "sysvshm"] {
            assert_eq!(get(&params, name), Some(&Value::Number(INHERIT)), "{name}");
        }
        for name in ["allow.noset_hostname", "allow.raw_sockets", "allow.nomount", "allow.mount.nodevfs"] {
            assert_eq!(get(&params, name), Some(&Value::Flag), "{name}");
        }
        assert_eq!(get(&params, "devfs_ruleset"), Some(&Value::Number(77)));
        assert_eq!(get(&params, "meta.cellblock"), Some(&Value::Text("default/web-0/main".to_owned())));
        for name in ["vnet", "osrelease", "osreldate"] {
            assert_eq!(get(&params, name), None, "{name}");
        }
        record.release = Some(Release { name: "14.3-RELEASE".to_owned(), date: Some(1_403_000) });
        spec.title = String::new();
        let params = container(&record, &spec, &rights, &|_| true);
        assert_eq!(get(&params, "meta.cellblock"), None);
        assert_eq!(get(&params, "osrelease"), Some(&Value::Text("14.3-RELEASE".to_owned())));
        assert_eq!(get(&params, "osreldate"), Some(&Value::Number(1_403_000)));
        let wanted = [("osrelease", "13.5-RELEASE"), ("linux.osrelease", "6.1.0"), ("env", "a=b\n")];
        spec.jail = wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let params = container(&record, &spec, &rights, &|_| true);
        assert_eq!(get(&params, "osrelease"), Some(&Value::Text("13.5-RELEASE".to_owned())));
        assert_eq!(get(&params, "osreldate"), Some(&Value::Number(1_403_000)));
        assert_eq!(get(&params, "linux"), Some(&Value::Number(NEW)));
        assert_eq!(get(&params, "linux.osrelease"), Some(&Value::Text("6.1.0".to_owned())));
        assert_eq!(get(&params, "env"), Some(&Value::Text("a=b\n".to_owned())));
    }

    #[test]
    fn a_pod_allows_what_its_containers_ask_for() {
        let jail = ["allow.vmm", "allow.mlock", "osrelease"].map(str::to_owned).into();
        let spec = PodSpec { jail, ..spec() };
        let made = pod("cb1", &spec, Path::new("/empty"), &|_| true);
        let changed = spare_to_pod("cb1", &spec, &|_| true).unwrap();
        for params in [&made, &changed] {
            assert_eq!(get(params, "allow.vmm"), Some(&Value::Flag));
            assert_eq!(get(params, "osrelease"), None);
        }
        assert_eq!(get(&made, "allow.mlock"), Some(&Value::Flag));
        assert!(super::pod_rights(&|_| true).iter().all(|(name, _)| !name.contains("vmm")), "the right stays");
    }

    #[test]
    fn a_spare_becomes_a_pod_by_what_can_be_changed() {
        let made = spare("cbs1", Path::new("/empty"), &|_| true);
        assert_eq!(get(&made, "vnet"), Some(&Value::Number(NEW)));
        let changed = spare_to_pod("cb1", &PodSpec { ipc: Scope::Host, ..spec() }, &|_| true).unwrap();
        let names: Vec<&str> = changed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["name", "host.hostname", "sysvmsg", "sysvsem", "sysvshm", "meta.cellblock"]);
        assert_eq!(get(&changed, "sysvsem"), Some(&Value::Number(INHERIT)));
        assert!(spare_to_pod("cb1", &PodSpec { network: Scope::Host, ..spec() }, &|_| true).is_none());
        assert!(spare_to_pod("cb1", &PodSpec { hostname: None, ..spec() }, &|_| true).is_none());
    }

    #[test]
    fn parameters_are_shown_by_their_names() {
        let params: Params = vec![
            ("name".to_owned(), Value::Text("cb".to_owned())),
            ("persist".to_owned(), Value::Flag),
            ("vnet".to_owned(), Value::Number(NEW)),
        ];
        assert_eq!(document(&params), serde_json::json!({"name": "cb", "persist": true, "vnet": 1}));
    }
}
