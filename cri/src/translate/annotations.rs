//! Every annotation of a pod that is Cellblock's own, in one table ([`KNOWN`]; docs/annotations.md for people): unknown ones below
//! its prefixes are refused. An annotation about containers counts for every container of the pod, or with a container's name
//! behind a dot for that one (`resources.cellblock/memory.web`). Those that a kubelet says in the `linux` section otherwise count
//! without such a section only: a kubelet for FreeBSD without packaging/kubelet sends none.

use std::collections::BTreeMap;

use proto::v1::{Int64Value, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext};

use super::refusal::{Refusal, invalid};
use super::{jail, network, storage};
use crate::config;

/// A limit on memory: bytes, or with Ki, Mi or Gi.
const MEMORY: &str = "resources.cellblock/memory";
/// A limit on CPU time: CPUs, or thousandths with an m.
const CPU: &str = "resources.cellblock/cpu";
/// The user's number.
const USER: &str = "security.cellblock/run-as-user";
/// Whether the root is read-only: `true` or `false`.
const READ_ONLY: &str = "security.cellblock/read-only-root";
/// What rctl(8) limits by a number, or by bytes a second.
const OPEN_FILES: &str = "resources.cellblock/openfiles";
const THREADS: &str = "resources.cellblock/nthr";
const READ_RATE: &str = "resources.cellblock/readbps";
const WRITE_RATE: &str = "resources.cellblock/writebps";
const READS: &str = "resources.cellblock/readiops";
const WRITES: &str = "resources.cellblock/writeiops";
/// What the names of rctl(8) follow.
const RESOURCES: &str = "resources.cellblock/";

/// What an annotation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The pod's network ([`network`]).
    Network,
    /// A container, in place of its `linux` section.
    Section,
    /// A container's limit by rctl(8).
    Rctl,
    /// What a container may write into its root ([`storage`]).
    Limit,
    /// What a container's root is made from ([`storage`]).
    Root,
    /// What becomes of snapshots ([`storage`]).
    Snapshots,
}

/// Every annotation but those of jail parameters, which [`jail`] reads.
const KNOWN: [(&str, About); 18] = [
    (network::ADDRESS_ANNOTATION, About::Network),
    (network::ROUTE_ANNOTATION, About::Network),
    (network::FIREWALL_ANNOTATION, About::Network),
    (network::INTERFACE_ANNOTATION, About::Network),
    (network::FILTER_ANNOTATION, About::Network),
    (MEMORY, About::Section),
    (CPU, About::Section),
    (USER, About::Section),
    (READ_ONLY, About::Section),
    (OPEN_FILES, About::Rctl),
    (THREADS, About::Rctl),
    (READ_RATE, About::Rctl),
    (WRITE_RATE, About::Rctl),
    (READS, About::Rctl),
    (WRITES, About::Rctl),
    (storage::REFQUOTA, About::Limit),
    (storage::ROOT, About::Root),
    (storage::SNAPSHOTS, About::Snapshots),
];
/// Every annotation of the table begins with one of these.
const PREFIXES: [&str; 4] = ["network.cellblock/", RESOURCES, "security.cellblock/", "storage.cellblock/"];
/// The period of a CPU quota, in microseconds, as kubelet has it.
const CPU_PERIOD: i64 = 100_000;
/// The smallest quota, in microseconds; kubelet raises smaller ones too (MinQuotaPeriod in pkg/kubelet/cm).
const CPU_QUOTA_MIN: i64 = 1_000;

/// Refuses misspelt annotations, and bad values of those about containers, before the pod exists. With a `linux` section the
/// annotations that stand for one do not count. [`network`] and [`jail`] check the values of theirs.
pub(super) fn check(annotations: &BTreeMap<String, String>, has_section: bool) -> Result<(), Refusal> {
    for (key, value) in annotations {
        if let Some(prefix) = jail::PREFIXES.iter().find(|prefix| key.starts_with(**prefix)) {
            if jail::parse(key).is_none() {
                let known = runtime::jail::PARAMETERS.map(|(name, _)| format!("{prefix}{name}"));
                return Err(invalid(field(key), format!("is none of {}", known.join(", "))));
            }
            continue;
        }
        let Some(prefix) = PREFIXES.iter().find(|prefix| key.starts_with(**prefix)) else { continue };
        let (known, about) = find(key).ok_or_else(|| {
            let all = KNOWN.iter().map(|(known, _)| *known).filter(|known| known.starts_with(prefix));
            invalid(field(key), format!("is none of {}", all.collect::<Vec<_>>().join(", ")))
        })?;
        let one = BTreeMap::from([(known.to_owned(), value.clone())]);
        let checked = match about {
            About::Section if !has_section => section("", &one).map(drop),
            About::Rctl => rctl("", &one).map(drop),
            About::Limit => bytes(key, value).map(drop),
            About::Root => storage::check_root(key, value),
            About::Snapshots => storage::keep(value).map(drop),
            About::Section | About::Network => Ok(()),
        };
        // The refusal names the annotation as it was written.
        checked.map_err(|refusal| invalid(field(key), refusal.reason))?;
    }
    Ok(())
}

/// The entry of a key, which may have a container's name if it is about containers.
fn find(key: &str) -> Option<(&'static str, About)> {
    KNOWN.into_iter().find(|(known, about)| match key.strip_prefix(known) {
        Some("") => true,
        Some(name) => !matches!(about, About::Network | About::Snapshots) && name.starts_with('.') && name.len() > 1,
        None => false,
    })
}

/// The annotation of a container, or else of its pod.
pub(super) fn get<'a>(
    annotations: &'a BTreeMap<String, String>,
    name: &str,
    known: &str,
) -> Option<(&'a String, &'a String)> {
    annotations.get_key_value(&format!("{known}.{name}")).or_else(|| annotations.get_key_value(known))
}

/// The limits of a container by rctl(8), by their resources.
pub(super) fn rctl(name: &str, annotations: &BTreeMap<String, String>) -> Result<BTreeMap<String, u64>, Refusal> {
    let mut limits = BTreeMap::new();
    for (known, _) in KNOWN.iter().filter(|(_, about)| *about == About::Rctl) {
        let Some((key, text)) = get(annotations, name, known) else { continue };
        let amount = if [READ_RATE, WRITE_RATE].contains(known) { bytes(key, text)? } else { count(key, text)? };
        limits.insert(known.trim_start_matches(RESOURCES).to_owned(), amount.unsigned_abs());
    }
    Ok(limits)
}

fn count(key: &str, text: &str) -> Result<i64, Refusal> {
    let count = text.parse::<i64>().ok().filter(|count| *count > 0);
    count.ok_or_else(|| invalid(field(key), format!("{text:?} is no number above 0")))
}

/// The `linux` section of a container without one; None: no annotation is about it.
pub(crate) fn section(
    name: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<Option<LinuxContainerConfig>, Refusal> {
    let get = |known: &str| get(annotations, name, known);
    let memory = get(MEMORY).map(|(key, text)| bytes(key, text)).transpose()?;
    let quota = get(CPU).map(|(key, text)| quota(key, text)).transpose()?;
    let user = get(USER).map(|(key, text)| user(key, text)).transpose()?;
    let read_only = get(READ_ONLY).map(|(key, text)| truth(key, text)).transpose()?;
    let resources = (memory.is_some() || quota.is_some()).then(|| LinuxContainerResources {
        memory_limit_in_bytes: memory.unwrap_or(0),
        cpu_period: if quota.is_some() { CPU_PERIOD } else { 0 },
        cpu_quota: quota.unwrap_or(0),
        ..LinuxContainerResources::default()
    });
    let security_context = (user.is_some() || read_only.is_some()).then(|| LinuxContainerSecurityContext {
        run_as_user: user.map(|value| Int64Value { value }),
        readonly_rootfs: read_only.unwrap_or(false),
        ..LinuxContainerSecurityContext::default()
    });
    let any = resources.is_some() || security_context.is_some();
    Ok(any.then_some(LinuxContainerConfig { resources, security_context }))
}

fn field(key: &str) -> String {
    format!("annotations[{key}]")
}

/// A positive number of bytes, or with Ki, Mi or Gi.
pub(super) fn bytes(key: &str, text: &str) -> Result<i64, Refusal> {
    let bytes = config::bytes(text, "i").and_then(|bytes| i64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| invalid(field(key), format!("{text:?} is no number of bytes, such as 67108864 or 64Mi")))
}

/// The quota in [`CPU_PERIOD`], in microseconds.
fn quota(key: &str, text: &str) -> Result<i64, Refusal> {
    let thousandths = match text.strip_suffix('m') {
        Some(number) => number.parse::<i64>().ok(),
        None => text.parse::<i64>().ok().and_then(|cpus| cpus.checked_mul(1000)),
    };
    let quota = thousandths.filter(|thousandths| *thousandths > 0).and_then(|it| it.checked_mul(CPU_PERIOD / 1000));
    quota
        .map(|quota| quota.max(CPU_QUOTA_MIN))
        .ok_or_else(|| invalid(field(key), format!("{text:?} is no number of CPUs, such as 2 or 500m")))
}

fn user(key: &str, text: &str) -> Result<i64, Refusal> {
    let number = text.parse::<u32>().map(i64::from);
    number.map_err(|_| invalid(field(key), format!("{text:?} is no user's number")))
}

fn truth(key: &str, text: &str) -> Result<bool, Refusal> {
    text.parse().map_err(|_| invalid(field(key), format!("{text:?} is neither true nor false")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{check, rctl, section};

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_containers_own_annotation_comes_before_its_pods() {
        let all = annotations(&[
            ("note", "kept"),
            ("resources.cellblock/memory", "64Mi"),
            ("resources.cellblock/memory.db", "1Gi"),
            ("resources.cellblock/cpu", "1500m"),
            ("resources.cellblock/cpu.small", "1m"),
            ("security.cellblock/run-as-user.web", "80"),
            ("security.cellblock/read-only-root", "true"),
        ]);
        check(&all, false).unwrap();
        let of = |name: &str| {
            let linux = section(name, &all).unwrap().unwrap();
            let (resources, context) = (linux.resources.unwrap(), linux.security_context.unwrap());
            assert!(context.readonly_rootfs);
            assert_eq!((resources.cpu_quota, resources.cpu_period), (150_000, 100_000));
            (resources.memory_limit_in_bytes, context.run_as_user.map(|user| user.value))
        };
        assert_eq!((of("web"), of("db")), ((64 << 20, Some(80)), (1 << 30, None)));
        assert_eq!(section("small", &all).unwrap().unwrap().resources.unwrap().cpu_quota, 1_000);
        assert_eq!(section("web", &annotations(&[("note", "kept")])), Ok(None));
    }

    #[test]
    fn limits_by_rctl_have_its_names() {
        let all = annotations(&[
            ("resources.cellblock/readbps", "10Mi"),
            ("resources.cellblock/openfiles.web", "64"),
            ("resources.cellblock/memory", "1Gi"),
        ]);
        let of = |name: &str| Vec::from_iter(rctl(name, &all).unwrap());
        assert_eq!(of("web"), [("openfiles".to_owned(), 64), ("readbps".to_owned(), 10 << 20)]);
        assert_eq!(of("db"), [("readbps".to_owned(), 10 << 20)]);
    }

    #[test]
    fn a_bad_value_is_refused_with_its_annotation() {
        for (key, value) in [
            ("resources.cellblock/memory", "64MB"),
            ("resources.cellblock/memory.web", "-1"),
            ("resources.cellblock/memory", "9999999999Gi"),
            ("resources.cellblock/cpu", "0"),
            ("resources.cellblock/cpu.web", "0.5"),
            ("security.cellblock/run-as-user", "www"),
            ("security.cellblock/read-only-root", "yes"),
            ("resources.cellblock/nthr", "0"),
            ("resources.cellblock/openfiles.web", "64Ki"),
            ("resources.cellblock/readbps", "fast"),
            ("resources.cellblock/writeiops", "-1"),
        ] {
            let refusal = check(&annotations(&[(key, value)]), false).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("annotations[{key}]: {value:?} is ")), "{refusal}");
        }
        for key in [
            "resources.cellblock/pids",
            "security.cellblock/run-as-user.",
            "resources.cellblock/memoryx",
            "network.cellblock/rout",
            "network.cellblock/route.web",
            "jail.cellblock/allow.mount",
            "org.freebsd.jail.vnet",
            "jail.cellblock/meta.",
        ] {
            for has_section in [false, true] {
                let refusal = check(&annotations(&[(key, "1")]), has_section).unwrap_err().to_string();
                assert!(refusal.starts_with(&format!("annotations[{key}]: is none of ")), "{refusal}");
            }
        }
        let memory = annotations(&[("resources.cellblock/memory", "lots")]);
        check(&memory, true).unwrap();
    }
}
