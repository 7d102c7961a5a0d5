//! The scenario's manifests for the FreeBSD node: each pod asks for it and tolerates its taint.

use anyhow::Result;
use serde_json::{Value, json};

use crate::kubernetes::kubectl::Kubectl;

/// Objects of shared manifests that mean something on Linux only, by kind and name.
const LINUX_ONLY: [(&str, &str); 4] =
    [("DaemonSet", "agent"), ("Pod", "host-network"), ("Pod", "probes"), ("Pod", "noisy")];

/// A manifest for the FreeBSD node, as JSON.
pub(super) fn for_freebsd(kubectl: &Kubectl, manifest: &str) -> Result<String> {
    let all = kubectl.command(&["create", "--dry-run=client", "-o", "json", "-f", "-"]).stdin(manifest).run()?;
    // kubectl prints one document after the other, or a list.
    let documents = serde_json::Deserializer::from_str(&all).into_iter::<Value>().collect::<Result<Vec<_>, _>>()?;
    let mut objects: Vec<Value> = documents.into_iter().flat_map(items).filter(|object| !linux_only(object)).collect();
    objects.iter_mut().for_each(ask_for_freebsd);
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())
}

fn items(document: Value) -> Vec<Value> {
    match document {
        Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
            list.remove("items").and_then(|items| items.as_array().cloned()).unwrap_or_default()
        }
        object => vec![object],
    }
}

fn linux_only(object: &Value) -> bool {
    LINUX_ONLY.iter().any(|(kind, name)| object["kind"] == *kind && object["metadata"]["name"] == *name)
}

/// Every specification of a pod in an object, however deep.
fn ask_for_freebsd(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("containers") {
                map.insert("nodeSelector".to_owned(), json!({"kubernetes.io/os": "freebsd"}));
                map.insert(
                    "tolerations".to_owned(),
                    json!([{"key": "kubernetes.io/os", "value": "freebsd", "effect": "NoSchedule"}]),
                );
            }
            map.values_mut().for_each(ask_for_freebsd);
        }
        Value::Array(values) => values.iter_mut().for_each(ask_for_freebsd),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::ask_for_freebsd;

    #[test]
    fn every_pod_of_an_object_asks_for_the_node() {
        let pod = |spec: serde_json::Value| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}});
        let mut object = pod(json!({"containers": [{"name": "a"}]}));
        ask_for_freebsd(&mut object);
        let expected = pod(json!({
            "containers": [{"name": "a"}],
            "nodeSelector": {"kubernetes.io/os": "freebsd"},
            "tolerations": [{"key": "kubernetes.io/os", "value": "freebsd", "effect": "NoSchedule"}],
        }));
        assert_eq!(object, expected);
    }
}
