//! Which pods have a name, and what it is. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The longest label (RFC 1035, 2.3.4), in bytes.
const LABEL: usize = 63;
/// The longest name as text, without the dot at its end: 255 bytes with the length of each label and the root.
const NAME: usize = 253;
/// The longest domain, in bytes: it leaves room for a namespace and a pod's name of one label each.
const DOMAIN: usize = NAME - 2 * (LABEL + 1);

/// A name below the domain and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// `POD.NAMESPACE`, in lower case.
    pub name: String,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// A pod that is ready, and has addresses of its own.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// When it was made; the unit does not matter.
    pub created_at: i64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The records of some pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selected {
    /// One for each name, ordered.
    pub records: Vec<Record>,
    /// `POD.NAMESPACE` of the pods that can have no name.
    pub refused: Vec<String>,
}

/// Gives each pod its name. Of pods with the same name, the newest has it: the others are being replaced.
#[must_use]
pub fn select<'a>(domain: &str, pods: impl IntoIterator<Item = Pod<'a>>) -> Selected {
    let (mut newest, mut refused) = (BTreeMap::<String, Pod<'a>>::new(), Vec::new());
    for pod in pods {
        let name = format!("{}.{}", pod.name, pod.namespace).to_ascii_lowercase();
        // A pod's name may have dots, a namespace may not (Kubernetes' "Object Names and IDs"), so names stay distinct.
        let labels = pod.name.split('.').chain([pod.namespace]);
        if !labels.into_iter().all(is_label) || name.len() + 1 + domain.len() > NAME {
            refused.push(name);
        } else if newest.get(&name).is_none_or(|other| other.created_at < pod.created_at) {
            newest.insert(name, pod);
        }
    }
    let records = newest.into_iter().map(|(name, pod)| Record { name, addresses: pod.addresses }).collect();
    Selected { records, refused }
}

/// Says why a text is no domain for pods.
///
/// # Errors
/// The fault, with the text.
pub fn check_domain(domain: &str) -> Result<(), String> {
    if domain.len() > DOMAIN {
        return Err(format!("{domain:?} has {} bytes, at most {DOMAIN}", domain.len()));
    }
    match domain.split('.').find(|label| !is_label(label)) {
        None => Ok(()),
        Some(label) => Err(format!("{domain:?} is no domain: {label:?} is no label of letters, digits and hyphens")),
    }
}

/// Whether a text is a label of a host's name (RFC 1123, 2.1).
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LABEL).contains(&text.len()) && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::{DOMAIN, Pod, Record, check_domain, select};

    fn pod<'a>(name: &'a str, namespace: &'a str, created_at: i64, address: &str) -> Pod<'a> {
        Pod { name, namespace, created_at, addresses: vec![address.parse().unwrap()] }
    }

    fn record(name: &str, address: &str) -> Record {
        Record { name: name.to_owned(), addresses: vec![address.parse().unwrap()] }
    }

    #[test]
    fn the_newest_pod_of_a_name_has_it() {
        for order in [[1, 2, 3], [3, 1, 2]] {
            let pods = order.map(|at| pod("web", "default", at, &format!("10.1.0.{at}")));
            assert_eq!(select("local.cellblock", pods).records, [record("web.default", "10.1.0.3")]);
        }
        let two = [pod("web", "b", 1, "10.1.0.2"), pod("Web", "a", 1, "10.1.0.3")];
        let found = select("local.cellblock", two);
        assert_eq!(found.records, [record("web.a", "10.1.0.3"), record("web.b", "10.1.0.2")]);
        assert_eq!(found.refused, [""; 0]);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let parts = [&long[..60]; 4].join(".");
        for (name, namespace, good) in [
            ("web-1", "default", true),
            ("etcd-node.example.org", "kube-system", true),
            ("web", "", false),
            ("", "default", false),
            ("web_1", "default", false),
            ("-web", "default", false),
            ("web.", "default", false),
            ("web", "a.b", false),
            ("w\u{e9}b", "default", false),
            (long.as_str(), "default", false),
            (parts.as_str(), "default", false),
        ] {
            let found = select("local.cellblock", [pod(name, namespace, 1, "10.1.0.2")]);
            assert_eq!(
                (found.records.len(), found.refused.is_empty()),
                (usize::from(good), good),
                "{name}.{namespace}"
            );
        }
    }

    #[test]
    fn a_domain_has_labels_and_leaves_room() {
        for good in ["local.cellblock", "pods", "a-1.b"] {
            assert_eq!(check_domain(good), Ok(()));
        }
        for bad in ["", ".", "local.", ".local", "local cellblock", "a..b", "-a", &vec!["a".repeat(63); 3].join(".")] {
            assert!(check_domain(bad).unwrap_err().contains(&format!("{bad:?}")), "{bad}");
        }
        assert_eq!(DOMAIN, 125);
    }
}
