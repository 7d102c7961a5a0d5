//! What a kubelet says in the `linux` section, by annotations of the pod: a kubelet for FreeBSD without packaging/kubelet sends
//! no such section. An annotation counts for every container of the pod, or with a container's name behind a dot for that one
//! (`resources.cellblock/memory.web`). With a `linux` section none of them counts.

use std::collections::BTreeMap;

use proto::v1::{Int64Value, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext};

use super::refusal::{Refusal, invalid};

/// A limit on memory: bytes, or with Ki, Mi or Gi.
const MEMORY: &str = "resources.cellblock/memory";
/// A limit on CPU time: CPUs, or thousandths with an m.
const CPU: &str = "resources.cellblock/cpu";
/// The user's number.
const USER: &str = "security.cellblock/run-as-user";
/// Whether the root is read-only: `true` or `false`.
const READ_ONLY: &str = "security.cellblock/read-only-root";
const ALL: [&str; 4] = [MEMORY, CPU, USER, READ_ONLY];
/// Every annotation here begins with one of these.
const PREFIXES: [&str; 2] = ["resources.cellblock/", "security.cellblock/"];
/// The period of a CPU quota, in microseconds, as kubelet has it.
const CPU_PERIOD: i64 = 100_000;
/// The smallest quota, in microseconds; kubelet raises smaller ones too (MinQuotaPeriod in pkg/kubelet/cm).
const CPU_QUOTA_MIN: i64 = 1_000;

/// Refuses misspelt annotations and bad values, before the pod exists.
pub(super) fn check(annotations: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for key in annotations.keys().filter(|key| PREFIXES.iter().any(|prefix| key.starts_with(prefix))) {
        let (known, name) = ALL
            .iter()
            .find_map(|known| Some((*known, key.strip_prefix(*known)?)))
            .filter(|(_, name)| name.is_empty() || (name.starts_with('.') && name.len() > 1))
            .ok_or_else(|| invalid(field(key), format!("is none of {}", ALL.join(", "))))?;
        let one = BTreeMap::from([(known.to_owned(), annotations[key].clone())]);
        // The refusal names the annotation as it was written.
        section("", &one).map_err(|refusal| invalid(field(&format!("{known}{name}")), refusal.reason))?;
    }
    Ok(())
}

/// The `linux` section of a container without one; None: no annotation is about it.
pub(crate) fn section(
    name: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<Option<LinuxContainerConfig>, Refusal> {
    let get = |known: &str| {
        let own = format!("{known}.{name}");
        annotations.get_key_value(&own).or_else(|| annotations.get_key_value(known))
    };
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
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    let bytes = number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor)).filter(|bytes| *bytes > 0);
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

    use super::{check, section};

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
        check(&all).unwrap();
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
    fn a_bad_value_is_refused_with_its_annotation() {
        for (key, value) in [
            ("resources.cellblock/memory", "64MB"),
            ("resources.cellblock/memory.web", "-1"),
            ("resources.cellblock/memory", "9999999999Gi"),
            ("resources.cellblock/cpu", "0"),
            ("resources.cellblock/cpu.web", "0.5"),
            ("security.cellblock/run-as-user", "www"),
            ("security.cellblock/read-only-root", "yes"),
        ] {
            let refusal = check(&annotations(&[(key, value)])).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("annotations[{key}]: {value:?} is ")), "{refusal}");
        }
        for key in ["resources.cellblock/pids", "security.cellblock/run-as-user.", "resources.cellblock/memoryx"] {
            let refusal = check(&annotations(&[(key, "1")])).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("annotations[{key}]: is none of ")), "{refusal}");
        }
    }
}
