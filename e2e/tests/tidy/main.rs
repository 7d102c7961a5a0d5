//! The house rules that a program can check, over every source file and manifest of the repository; no root, no network, a
//! second. The rules are in `rules.rs` (one file at a time), `imports.rs` (the rooms of cri) and `manifests.rs`; what only a
//! reader can judge is in CONTRIBUTING.md.

mod imports;
mod manifests;
mod rules;
mod source;

use std::path::{Path, PathBuf};

/// What a build or a test makes, and what git keeps.
const NOT_OURS: [&str; 4] = ["target", "artifacts", ".git", ".cargo"];
/// The largest file that belongs into the repository, in bytes: sources and small fixtures, no downloads, no binaries.
const LARGEST: u64 = 512 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e is a member of the workspace").to_owned()
}

/// Every file of the repository, relative to its root.
fn files() -> Vec<PathBuf> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                    walk(&path, root, found);
                }
            } else {
                found.push(path.strip_prefix(root).expect("it was found below").to_owned());
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root, &root, &mut found);
    found.sort();
    assert!(found.len() > 30, "this is not the repository: {}", root.display());
    found
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn sources_keep_the_house_rules() {
    let mut violations = Vec::new();
    for path in files().iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        violations.extend(rules::check(path.to_str().unwrap(), &text));
    }
    none(&violations);
}

#[test]
fn manifests_keep_the_house_rules() {
    let manifests: Vec<_> = files().into_iter().filter(|path| path.ends_with("Cargo.toml")).collect();
    let read = |path: &PathBuf| std::fs::read_to_string(root().join(path)).unwrap();
    none(&manifests.iter().flat_map(|path| manifests::check(path.to_str().unwrap(), &read(path))).collect::<Vec<_>>());
}

#[test]
fn the_rooms_of_cri_are_in_order() {
    let sources = files().into_iter().filter(|path| path.starts_with("cri/src"));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        (path.to_str().unwrap().to_owned(), text)
    };
    none(&imports::check(&sources.map(read).collect::<Vec<_>>()));
}

/// The lines of docs/field-cases.md end with the file and the name of a test.
#[test]
fn every_field_case_has_its_test() {
    let page = std::fs::read_to_string(root().join("docs/field-cases.md")).unwrap();
    let is_case = |line: &&str| line.starts_with("| ") && !line.starts_with("| case |");
    let cases: Vec<&str> = page.lines().filter(is_case).collect();
    assert!(cases.len() > 40, "the table is lost");
    let lacks = |line: &&&str| {
        let last = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        let Some((file, name)) = last.strip_prefix('`').and_then(|rest| rest.split_once("` ")) else { return true };
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        !text.contains(&format!("fn {name}("))
    };
    none(&cases.iter().filter(lacks).map(|line| (*line).to_owned()).collect::<Vec<_>>());
}

#[test]
fn nothing_large_lies_in_the_repository() {
    let size = |path: &PathBuf| std::fs::symlink_metadata(root().join(path)).unwrap().len();
    let large = files()
        .iter()
        .filter(|path| size(path) > LARGEST)
        .map(|path| format!("{}", path.display()))
        .collect::<Vec<_>>();
    none(&large);
}
