//! Pods and containers by what an administrator types: an id, the beginning of one, or names. CRI's calls take ids only.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Error;
use crate::state::names;
use crate::state::record::{ContainerRecord, PodRecord};
use crate::state::store::Store;

/// What a text names.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Pod(Arc<PodRecord>),
    Container(Arc<ContainerRecord>),
}

/// Something with an id and a name.
#[derive(Debug, Clone)]
struct Named<T> {
    id: String,
    /// `namespace/pod`, or `namespace/pod/container`.
    title: String,
    created_at: i64,
    is: T,
}

/// A container by its id or the beginning of it, by `namespace/pod/container`, by its own name, or by the name of a pod that has only
/// this one. Of the attempts of one name the newest counts.
pub(crate) fn container(store: &Store, text: &str) -> Result<Arc<ContainerRecord>, Error> {
    let (pods, containers) = all(store);
    let mut found = matching(&containers, text);
    for pod in matching(&pods, text) {
        let below = format!("{}/", pod.title);
        let inside = containers.iter().filter(|one| one.is.pod == pod.is.id && one.title.starts_with(&below));
        found.extend(newest(inside.cloned().collect()));
    }
    one(found, "container", text)
}

/// A pod or a container. A name without a slash is a pod's, or a container's if no pod has it.
pub(crate) fn target(store: &Store, text: &str) -> Result<Target, Error> {
    let (pods, containers) = all(store);
    let as_pod = |pod: Named<Arc<PodRecord>>| pod.map(Target::Pod);
    let as_container = |one: Named<Arc<ContainerRecord>>| one.map(Target::Container);
    let mut found: Vec<Named<Target>> = matching(&pods, text).into_iter().map(as_pod).collect();
    let containers = matching(&containers, text).into_iter();
    if found.is_empty() {
        found.extend(containers.map(as_container));
    } else {
        found.extend(containers.filter(|one| one.id.starts_with(text)).map(as_container));
    }
    one(found, "pod or container", text)
}

impl<T> Named<T> {
    fn map<U>(self, of: impl FnOnce(T) -> U) -> Named<U> {
        let Self { id, title, created_at, is } = self;
        Named { id, title, created_at, is: of(is) }
    }
}

type All = (Vec<Named<Arc<PodRecord>>>, Vec<Named<Arc<ContainerRecord>>>);

fn all(store: &Store) -> All {
    let title = |pod: &Arc<PodRecord>| pod.config.metadata.as_ref().map(names::namespaced).unwrap_or_default();
    let pods = store.pods().into_iter();
    let pods = pods.map(|is| Named { id: is.id.to_string(), title: title(&is), created_at: is.created_at, is });
    let pods: Vec<_> = pods.collect();
    let titles: BTreeMap<&str, &str> = pods.iter().map(|pod| (pod.id.as_str(), pod.title.as_str())).collect();
    let containers = store.containers().into_iter().map(|is| {
        let pod = titles.get(is.pod.as_str()).copied().unwrap_or_default();
        let name = names::own(is.config.metadata.as_ref());
        Named { id: is.id.to_string(), title: format!("{pod}/{name}"), created_at: is.created_at, is }
    });
    let containers = containers.collect();
    (pods, containers)
}

/// Those that a text names: by the beginning of the id, by the whole name, or by its last part. An exact id wins.
fn matching<T: Clone>(all: &[Named<T>], text: &str) -> Vec<Named<T>> {
    if let Some(exact) = all.iter().find(|one| one.id == text) {
        return vec![exact.clone()];
    }
    let by_id = |one: &Named<T>| !text.is_empty() && one.id.starts_with(text);
    let by_name = |one: &Named<T>| {
        let last = one.title.rsplit('/').next();
        one.title == text || (!text.is_empty() && last == Some(text))
    };
    let mut found: Vec<_> = all.iter().filter(|one| by_id(one)).cloned().collect();
    let named = all.iter().filter(|one| by_name(one) && !by_id(one)).cloned();
    found.extend(newest(named.collect()));
    found
}

/// The newest of each name.
fn newest<T>(all: Vec<Named<T>>) -> Vec<Named<T>> {
    let mut newest: BTreeMap<String, Named<T>> = BTreeMap::new();
    for one in all {
        if newest.get(&one.title).is_none_or(|known| known.created_at < one.created_at) {
            newest.insert(one.title.clone(), one);
        }
    }
    newest.into_values().collect()
}

fn one<T>(mut found: Vec<Named<T>>, what: &str, text: &str) -> Result<T, Error> {
    if text.is_empty() {
        return Err(Error::Invalid { field: what.to_owned(), reason: "is empty".to_owned() });
    }
    found.sort_by(|a, b| (&a.title, &a.id).cmp(&(&b.title, &b.id)));
    found.dedup_by(|a, b| a.id == b.id);
    match found.len() {
        0 => Err(Error::NotFound { what: format!("{what} {text:?}") }),
        1 => Ok(found.remove(0).is),
        _ => {
            let short = |one: &Named<T>| format!("{} ({})", one.title, one.id.get(..12).unwrap_or(&one.id));
            let all = found.iter().map(short).collect::<Vec<_>>().join(", ");
            Err(Error::Invalid { field: what.to_owned(), reason: format!("{text:?} may be any of {all}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Named, matching, one};

    fn named(id: &str, title: &str, created_at: i64) -> Named<i64> {
        Named { id: id.to_owned(), title: title.to_owned(), created_at, is: created_at }
    }

    #[test]
    fn an_id_its_beginning_and_names_are_found() {
        let all = [
            named("aa1", "default/web/main", 1),
            named("aa2", "default/web/main", 2),
            named("ab3", "other/web/main", 3),
            named("cd4", "default/db/store", 4),
            named("aa", "default/db/aa1", 5),
            named("main", "default/db/x", 6),
        ];
        for (text, wanted) in [
            ("cd4", Ok(4)),
            ("cd", Ok(4)),
            ("store", Ok(4)),
            ("default/web/main", Ok(2)),
            ("other/web/main", Ok(3)),
            ("aa", Ok(5)),
            ("aa1", Ok(1)),
            ("web/main", Err("not found")),
            ("default/", Err("not found")),
            ("", Err("is empty")),
            ("a", Err("may be any of default/db/aa1 (aa), default/web/main (aa1), ")),
            ("x", Ok(6)),
        ] {
            let found = one(matching(&all, text), "container", text);
            match (found, wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{text:?}"),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{text:?}: {error}"),
                (found, wanted) => panic!("{text:?}: {found:?}, not {wanted:?}"),
            }
        }
        let several = one(matching(&all[..4], "main"), "container", "main").unwrap_err().to_string();
        assert_eq!(several, "container: \"main\" may be any of default/web/main (aa2), other/web/main (ab3)");
    }
}
