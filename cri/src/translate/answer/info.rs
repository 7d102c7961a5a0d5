//! The verbose part of a status: one entry `info`, a JSON document with the keys that containerd uses, so that `crictl
//! inspect` and `inspectp` read the same and scripts that look for `.info.pid` find it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord, PodRecord};

const INFO: &str = "info";

/// A pod has no process: its pid is 0.
pub(crate) fn pod(node: &Node, record: &PodRecord) -> BTreeMap<String, String> {
    let info = json!({
        "pid": 0,
        "processStatus": if record.attachment.is_some() { "running" } else { "deleted" },
        "netNamespaceClosed": record.attachment.is_none(),
        "image": "",
        "snapshotKey": "",
        "snapshotter": "",
        "runtimeHandler": record.runtime_handler,
        "runtimeType": node.runtime.name(),
        "config": pruned(&record.config.0),
        "runtimeSpec": record.spec,
        "network": { "wanted": record.network, "attachment": record.attachment },
        "phase": record.phase,
        "reason": record.reason,
    });
    BTreeMap::from([(INFO.to_owned(), info.to_string())])
}

/// `spec` is what the backend made of the container's spec.
pub(crate) fn container(node: &Node, record: &ContainerRecord, spec: Option<Value>) -> BTreeMap<String, String> {
    let pid = if let ContainerPhase::Running { pid, .. } = record.phase { pid } else { 0 };
    let info = json!({
        "sandboxID": record.pod,
        "pid": pid,
        "removing": matches!(record.phase, ContainerPhase::Removing(_)),
        "snapshotKey": record.id,
        "snapshotter": node.rootfs,
        "runtimeType": node.runtime.name(),
        "config": pruned(&record.config.0),
        "runtimeSpec": spec,
    });
    BTreeMap::from([(INFO.to_owned(), info.to_string())])
}

/// A message as JSON without unset fields, as Go's `omitempty` writes it.
pub(crate) fn pruned(message: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(message).unwrap_or_else(|error| Value::String(error.to_string()));
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|name, field| !is_unset(field) && !is_empty_map(name, field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// CRI's maps by their names: an empty map is unset, an empty message is not.
fn is_empty_map(name: &str, value: &Value) -> bool {
    let maps = ["labels", "annotations", "sysctls", "unified", "Labels"];
    maps.contains(&name) && value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // An empty message is set: `"linux": {}`.
        Value::Object(_) | Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::prune;

    #[test]
    fn what_is_not_set_is_left_out() {
        let mut value =
            json!({"a": 0, "b": "", "c": [], "d": {"e": null, "f": 1}, "g": [{"h": false}], "i": "x", "labels": {}});
        prune(&mut value);
        assert_eq!(value, json!({"d": {"f": 1}, "g": [{}], "i": "x"}));
    }
}
