//! The jail parameters that a container's spec names ([`crate::jail`]), as rights and as parameters for the kernel. Pure.

use std::collections::BTreeMap;

use super::params::{NEW, Params, Value};
use super::rights::REQUESTED_ONLY;
use crate::Error;
use crate::jail::{self, Kind, PARAMETERS};

/// What the names of rights begin with.
const ALLOW: &str = "allow.";

/// Refuses a name that no container can ask for.
///
/// # Errors
/// [`Error::Invalid`] names it.
pub(super) fn check_name(name: &str) -> Result<Kind, Error> {
    jail::kind(name).ok_or_else(|| Error::invalid("jail", format!("{name:?} is no parameter that can be asked for")))
}

/// Whether a pod's jail has a parameter only if one of its containers asks for it.
pub(super) fn is_extra(name: &str) -> bool {
    name.strip_prefix(ALLOW).is_some_and(|right| REQUESTED_ONLY.contains(&right))
}

/// The rights below `allow.` that are given or taken. Checks all the other parameters too.
///
/// # Errors
/// [`Error::Invalid`] names the parameter and its value.
pub(super) fn allowed(wanted: &BTreeMap<String, String>) -> Result<Vec<(&'static str, bool)>, Error> {
    for (name, value) in wanted {
        let checked = jail::check(check_name(name)?, value);
        checked.map_err(|reason| Error::invalid(format!("jail.{name}"), reason))?;
    }
    let rights = PARAMETERS.iter().filter_map(|(name, _)| Some((*name, name.strip_prefix(ALLOW)?)));
    Ok(rights.filter_map(|(name, right)| Some((right, wanted.get(name)? == "true"))).collect())
}

/// The parameters that are no rights. [`allowed`] has checked them.
pub(super) fn params(wanted: &BTreeMap<String, String>) -> Params {
    let mut params = Params::new();
    for (name, value) in wanted {
        let value = match jail::kind(name) {
            None | Some(Kind::Truth) => continue,
            Some(Kind::Number) => Value::Number(value.parse().unwrap_or_default()),
            Some(Kind::LinuxRelease) => {
                // Otherwise it would be the node's (`linux_prison_set` in compat/linux/linux_mib.c).
                params.push(("linux".to_owned(), Value::Number(NEW)));
                Value::Text(value.clone())
            }
            Some(Kind::Release | Kind::Text) => Value::Text(value.clone()),
        };
        params.push((name.clone(), value));
    }
    params
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{allowed, params};
    use crate::freebsd::params::Value;

    fn wanted(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn rights_are_given_and_taken_and_the_rest_is_for_the_kernel() {
        let all = wanted(&[("allow.mlock", "true"), ("allow.raw_sockets", "false"), ("osreldate", "1403000")]);
        assert_eq!(allowed(&all).unwrap(), [("mlock", true), ("raw_sockets", false)]);
        assert_eq!(params(&all), [("osreldate".to_owned(), Value::Number(1_403_000))]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (name, value) in [("vnet", "new"), ("osreldate", "soon"), ("allow.vmm", "1"), ("path", "/")] {
            let refused = allowed(&wanted(&[(name, value)])).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
