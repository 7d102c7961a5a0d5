//! Images as text and as JSON. Pure.

use std::fmt::Write as _;

use proto::{admin, v1};
use serde_json::{Value, json};

use crate::client::{
    outcome::Outcome,
    table::{self, bytes},
};

/// Digits of an id in a table, as docker and crictl show.
const SHORT: usize = 13;
const COLUMNS: [&str; 4] = ["IMAGE", "TAG", "ID", "SIZE"];

pub(super) fn cri_json(image: &v1::Image) -> Value {
    json!({
        "id": image.id, "repoTags": image.repo_tags, "repoDigests": image.repo_digests, "size": image.size,
        "pinned": image.pinned,
    })
}

pub(super) fn admin_json(image: &admin::Image) -> Value {
    json!({ "id": image.id, "repoTags": image.repo_tags, "repoDigests": image.repo_digests, "size": image.size })
}

/// A line for each image: its names, or its id where it has none.
pub(super) fn names(images: &[admin::Image]) -> String {
    let line = |image: &admin::Image| match image.repo_tags.as_slice() {
        [] => format!("{}\n", image.repo_digests.first().unwrap_or(&image.id)),
        tags => format!("{}\n", tags.join(" ")),
    };
    images.iter().map(line).collect()
}

/// A row for each tag.
pub(super) fn table(images: &[v1::Image]) -> String {
    let mut rows: Vec<[String; 4]> = images.iter().flat_map(rows).collect();
    rows.sort();
    rows.insert(0, COLUMNS.map(str::to_owned));
    table::aligned(&rows)
}

/// The first digits of a digest, without its algorithm.
pub(super) fn short(digest: &str, digits: usize) -> &str {
    let all = digest.split_once(':').map_or(digest, |(_, all)| all);
    all.get(..digits).unwrap_or(all)
}

fn rows(image: &v1::Image) -> Vec<[String; 4]> {
    let row = |name: &str, tag: &str| {
        [name.to_owned(), tag.to_owned(), short(&image.id, SHORT).to_owned(), bytes(image.size)]
    };
    if image.repo_tags.is_empty() {
        let name = image.repo_digests.first().and_then(|name| name.split_once('@'));
        return vec![row(name.map_or("<none>", |(name, _)| name), "<none>")];
    }
    let tagged = image.repo_tags.iter().filter_map(|name| name.rsplit_once(':'));
    tagged.map(|(name, tag)| row(name, tag)).collect()
}

/// All of an image. `info` is the verbose part of CRI's answer.
pub(super) fn inspect(image: &v1::Image, info: &Value) -> Outcome {
    let (spec, chains) = (&info["imageSpec"], &info["chainIDs"]);
    let mut json = cri_json(image);
    json["config"] = spec.clone();
    json["chainIDs"] = chains.clone();
    let config = &spec["config"];
    let platform = format!("{}/{}", plain(&spec["os"]), plain(&spec["architecture"]));
    let list = |value: &Value| match value {
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(values) => values
            .iter()
            .map(|(key, value)| if value.is_string() { format!("{key}={}", plain(value)) } else { key.clone() })
            .collect(),
        Value::Null => Vec::new(),
        other => vec![plain(other)],
    };
    let fields: [(&str, Vec<String>); 15] = [
        ("id", vec![image.id.clone()]),
        ("tags", image.repo_tags.clone()),
        ("digests", image.repo_digests.clone()),
        ("size", vec![bytes(image.size)]),
        ("pinned", vec![if image.pinned { "yes" } else { "no" }.to_owned()]),
        ("platform", vec![platform]),
        ("created", list(&spec["created"])),
        ("user", list(&config["User"])),
        ("entrypoint", list(&config["Entrypoint"])),
        ("cmd", list(&config["Cmd"])),
        ("env", list(&config["Env"])),
        ("working dir", list(&config["WorkingDir"])),
        ("volumes", list(&config["Volumes"])),
        ("labels", list(&config["Labels"])),
        ("layers", list(&spec["rootfs"]["diff_ids"])),
    ];
    let mut text = String::new();
    for (name, values) in fields {
        for (at, value) in values.iter().filter(|value| !value.is_empty()).enumerate() {
            let name = if at == 0 { name } else { "" };
            let _ = writeln!(text, "{name:12} {value}");
        }
    }
    Outcome { text, json }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use proto::v1::Image;
    use serde_json::json;

    use super::{inspect, table};

    fn image() -> Image {
        Image {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            repo_tags: vec!["localhost:5000/team/tool:1".to_owned(), "docker.io/library/a:latest".to_owned()],
            repo_digests: vec![format!("docker.io/library/a@sha256:{}", "f".repeat(64))],
            size: 3 << 20,
            ..Image::default()
        }
    }

    #[test]
    fn each_tag_is_a_row() {
        let untagged = Image { repo_tags: Vec::new(), size: 5, ..image() };
        let wanted = "\
IMAGE                     TAG     ID             SIZE
docker.io/library/a       <none>  0123456789abc  5 B
docker.io/library/a       latest  0123456789abc  3.00 MiB
localhost:5000/team/tool  1       0123456789abc  3.00 MiB
";
        assert_eq!(table(&[image(), untagged]), wanted);
        assert_eq!(table(&[]), "IMAGE  TAG  ID  SIZE\n");
    }

    #[test]
    fn an_image_is_shown_with_what_it_sets() {
        let info = json!({"chainIDs": ["sha256:c"], "imageSpec": {"os": "freebsd", "architecture": "amd64",
            "config": {"Cmd": ["sh", "-c"], "Env": ["A=b"], "Labels": {"x": "y"}, "Volumes": {"/data": {}}, "User": ""},
            "rootfs": {"diff_ids": ["sha256:d"]}}});
        let shown = inspect(&image(), &info);
        for line in [
            "tags         localhost:5000/team/tool:1\n             docker.io/library/a:latest\n",
            "platform     freebsd/amd64\n",
            "cmd          sh\n             -c\n",
            "labels       x=y\n",
            "volumes      /data\n",
            "layers       sha256:d\n",
        ] {
            assert!(shown.text.contains(line), "{line} in {}", shown.text);
        }
        assert!(!shown.text.contains("user") && !shown.text.contains("null"), "{}", shown.text);
        assert_eq!(
            (shown.json["config"]["os"].as_str(), shown.json["size"].as_u64()),
            (Some("freebsd"), Some(3 << 20))
        );
    }
}
