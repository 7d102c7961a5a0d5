//! Parameters of jails by annotation: `jail.cellblock/PARAMETER`, or as ocijail names them `org.freebsd.jail.PARAMETER`, each
//! with a container's name behind a dot for that one alone. Only what the configuration allows is accepted.

use std::collections::{BTreeMap, BTreeSet};

use runtime::jail::{PARAMETERS, check, kind};

use super::refusal::{Refusal, invalid};

/// What the annotations begin with; the second is ocijail's, which podman's and CRI-O's users write.
pub(super) const PREFIXES: [&str; 2] = ["jail.cellblock/", "org.freebsd.jail."];

/// A parameter that an annotation asks for.
struct Wish<'a> {
    key: &'a str,
    parameter: &'static str,
    /// Empty: every container of the pod.
    container: &'a str,
    value: &'a str,
}

impl Wish<'_> {
    fn refused(&self, reason: impl Into<String>) -> Refusal {
        invalid(format!("annotations[{}]", self.key), reason)
    }
}

/// The parameter and the container of a key; None: it is no key of a parameter.
pub(super) fn parse(key: &str) -> Option<(&'static str, &str)> {
    let rest = PREFIXES.iter().find_map(|prefix| key.strip_prefix(prefix))?;
    let split = |name: &'static str| match rest.strip_prefix(name)? {
        "" => Some((name, "")),
        container => Some((name, container.strip_prefix('.').filter(|container| !container.is_empty())?)),
    };
    PARAMETERS.iter().find_map(|(name, _)| split(name))
}

/// The parameters that the containers of a pod ask for, all checked.
pub(super) fn of_pod(annotations: &BTreeMap<String, String>, allowed: &[String]) -> Result<BTreeSet<String>, Refusal> {
    Ok(wishes(annotations, allowed)?.into_iter().map(|wish| wish.parameter.to_owned()).collect())
}

/// The parameters of a container and their values: its own annotations come before its pod's.
pub(super) fn of_container(
    container: &str,
    annotations: &BTreeMap<String, String>,
    allowed: &[String],
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut wishes = wishes(annotations, allowed)?;
    wishes.retain(|wish| wish.container.is_empty() || wish.container == container);
    wishes.sort_by_key(|wish| !wish.container.is_empty());
    Ok(wishes.into_iter().map(|wish| (wish.parameter.to_owned(), wish.value.to_owned())).collect())
}

fn wishes<'a>(annotations: &'a BTreeMap<String, String>, allowed: &[String]) -> Result<Vec<Wish<'a>>, Refusal> {
    let mut wishes: Vec<Wish<'_>> = Vec::new();
    for (key, value) in annotations {
        let Some((parameter, container)) = parse(key) else { continue };
        let wish = Wish { key, parameter, container, value };
        if allowed.iter().all(|known| known != parameter) {
            return Err(wish.refused(format!("the configuration's jail_parameters does not have {parameter:?}")));
        }
        if let Some(kind) = kind(parameter) {
            check(kind, value).map_err(|reason| wish.refused(reason))?;
        }
        let same = |other: &&Wish<'_>| other.parameter == parameter && other.container == container;
        if let Some(other) = wishes.iter().find(same).filter(|other| other.value != value) {
            return Err(wish.refused(format!("{value:?} is not what annotations[{}] has", other.key)));
        }
        wishes.push(wish);
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{of_container, of_pod};

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn allowed(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_containers_own_parameter_comes_before_its_pods() {
        let all = annotations(&[
            ("jail.cellblock/allow.mlock.web", "false"),
            ("jail.cellblock/linux.osrelease", "6.1.0"),
            ("org.freebsd.jail.allow.mlock", "true"),
            ("org.freebsd.jail.osrelease.db.1", "14.3-RELEASE"),
            ("note", "kept"),
        ]);
        let list = allowed(&["allow.mlock", "linux.osrelease", "osrelease"]);
        let names = of_pod(&all, &list).unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["allow.mlock", "linux.osrelease", "osrelease"]);
        let of = |name: &str| of_container(name, &all, &list).unwrap();
        assert_eq!(of("web"), annotations(&[("allow.mlock", "false"), ("linux.osrelease", "6.1.0")]));
        assert_eq!(of("db.1")["osrelease"], "14.3-RELEASE");
        assert_eq!(of("db.1")["allow.mlock"], "true");
    }

    #[test]
    fn a_parameter_is_refused_with_its_annotation() {
        let list = allowed(&["allow.mlock", "meta", "osreldate"]);
        for (pairs, reason) in [
            (&[("jail.cellblock/allow.vmm", "true")][..], "the configuration's jail_parameters does not have"),
            (&[("org.freebsd.jail.osrelease", "14.3-RELEASE")], "the configuration's jail_parameters does not have"),
            (&[("jail.cellblock/allow.mlock.web", "yes")], "\"yes\" is neither true nor false"),
            (&[("org.freebsd.jail.osreldate", "0")], "\"0\" is no number above 0"),
            (&[("jail.cellblock/meta", "a\0")], "\"a\\0\" is no text"),
            (
                &[("org.freebsd.jail.allow.mlock", "false"), ("jail.cellblock/allow.mlock", "true")],
                "\"false\" is not what annotations[jail.cellblock/allow.mlock] has",
            ),
        ] {
            let all = annotations(pairs);
            for refusal in [of_pod(&all, &list).unwrap_err(), of_container("web", &all, &list).unwrap_err()] {
                assert!(
                    refusal.to_string().starts_with(&format!("annotations[{}]: {reason}", pairs[0].0)),
                    "{refusal}"
                );
            }
        }
        assert!(of_pod(&annotations(&[("jail.cellblock/meta", "a=b")]), &[]).is_err(), "nothing is allowed by default");
    }
}
