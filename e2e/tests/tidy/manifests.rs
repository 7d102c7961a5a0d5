//! The rules for the manifests: which crate may know which, and that versions stand in one place.

use toml::{Table, Value};

/// The allowed dependencies between our own crates: the table of the design. cri names host for the ids and places that the three
/// boundaries share. testimage makes the images of the demo and of all tests; outside demo and e2e only tests may use it.
const KNOWS: [(&str, &[&str]); 12] = [
    ("proto", &[]),
    ("host", &[]),
    ("runtime", &["host"]),
    ("network", &["host"]),
    ("nameserver", &["host"]),
    ("testimage", &[]),
    ("image", &["host", "testimage"]),
    ("streaming", &["host", "runtime"]),
    ("demo", &["host", "proto", "testimage"]),
    ("monitor", &["network", "runtime"]),
    (
        "cri",
        &["demo", "host", "image", "monitor", "nameserver", "network", "proto", "runtime", "streaming", "testimage"],
    ),
    ("e2e", &["proto", "testimage"]),
];
/// What brings a second TLS stack, or the C library of one.
const SECOND_TLS: [&str; 4] = ["openssl", "openssl-sys", "native-tls", "aws-lc-rs"];

/// What this manifest says that it should not.
pub(crate) fn check(path: &str, text: &str) -> Vec<String> {
    let manifest: Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("{path}: {error}")],
    };
    let found = match manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str) {
        // A package that is a workspace of its own (the fuzz targets) is no part of ours.
        Some(name) if !manifest.contains_key("workspace") => member(name, &manifest),
        _ => vec![],
    };
    found.into_iter().chain(second_tls(&manifest)).map(|what| format!("{path}: {what}")).collect()
}

fn member(name: &str, manifest: &Table) -> Vec<String> {
    let Some((_, known)) = KNOWS.iter().find(|(crate_name, _)| *crate_name == name) else {
        return vec![format!("{name} is no crate of the design")];
    };
    let mut found = Vec::new();
    for (dependency, value) in dependencies(manifest) {
        if value.get("workspace").and_then(Value::as_bool) != Some(true) {
            found.push(format!("{dependency} has a version of its own: versions stand in the workspace's table"));
        }
        let ours = KNOWS.iter().any(|(crate_name, _)| *crate_name == dependency);
        if ours && !known.contains(&dependency) {
            found.push(format!("{name} must not know {dependency}"));
        }
    }
    if manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) != Some(true) {
        found.push("does not take the workspace's lints".into());
    }
    found
}

/// Every dependency of every kind and target.
fn dependencies(manifest: &Table) -> Vec<(&str, &Value)> {
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    tables
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind).and_then(Value::as_table)))
        .flat_map(|table| table.iter().map(|(name, value)| (name.as_str(), value)))
        .collect()
}

fn second_tls(manifest: &Table) -> Vec<String> {
    let workspace = manifest.get("workspace").and_then(Value::as_table);
    let all = workspace.into_iter().chain(std::iter::once(manifest)).flat_map(dependencies);
    all.filter(|(name, _)| SECOND_TLS.contains(name))
        .map(|(name, _)| format!("{name}: rustls with ring is the one TLS stack"))
        .collect()
}

#[test]
fn every_rule_can_fail() {
    let package = |name: &str, rest: &str| format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}");
    for (text, wanted) in [
        (package("runtime", "[dependencies]\nlibc = \"1\""), "version of its own"),
        (package("runtime", "[dev-dependencies]\nnetwork.workspace = true"), "must not know network"),
        (package("runtime", "[target.'cfg(unix)'.dependencies]\nproto.workspace = true"), "must not know proto"),
        (package("common", ""), "no crate of the design"),
        ("[package]\nname = \"host\"".to_owned(), "lints"),
        ("[workspace.dependencies]\nopenssl = \"1\"".to_owned(), "TLS stack"),
        ("[".to_owned(), "TOML"),
    ] {
        let found = check("Cargo.toml", &text);
        assert!(found.len() == 1 && found[0].contains(wanted), "{text}: {found:?}, not {wanted}");
    }
    assert_eq!(check("Cargo.toml", &package("cri", "[dependencies]\nproto.workspace = true")), [""; 0]);
}
