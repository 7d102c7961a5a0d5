//! The rule for the files of `cri` together: no import cycle has more than two files, and none goes from a lower room to a
//! higher one. Imports are what `use` lines and paths in the code name; `mod x;` is none. Tests may look where they like.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::code;

/// From the highest to the lowest; `cri/src/lib.rs` says what lies where.
const ROOMS: [&str; 6] = ["client", "server", "rpc", "lifecycle", "translate", "state"];
/// Where the files are.
const ROOT: &str = "cri/src/";

/// `crate::a::b` as `["a", "b"]`.
type Module = Vec<String>;

/// What the imports of these files (path and text) break.
pub(crate) fn check(files: &[(String, String)]) -> Vec<String> {
    let paths: BTreeMap<Module, &str> =
        files.iter().filter_map(|(path, _)| Some((module(path)?, path.as_str()))).collect();
    let modules: BTreeSet<Module> = paths.keys().cloned().collect();
    let imports: BTreeMap<&Module, BTreeSet<Module>> = files
        .iter()
        .filter_map(|(path, text)| Some((modules.get(&module(path)?)?, text)))
        .map(|(own, text)| (own, imports(own, &without_tests(&code(text)), &modules)))
        .collect();
    let upwards = imports.iter().flat_map(|(from, to)| to.iter().map(move |to| (*from, to)));
    let upwards = upwards.filter(|(from, to)| rank(from) > rank(to));
    let mut found: Vec<String> =
        upwards.map(|(from, to)| format!("{} uses {}, which is in a higher room", paths[from], paths[to])).collect();
    found.extend(cycles(&imports).iter().map(|cycle| {
        let names: Vec<_> = cycle.iter().map(|module| paths[module]).collect();
        format!("{} import each other in a circle", names.join(", "))
    }));
    found
}

/// The module that a file is; None for one that is no module of the library, or holds tests.
fn module(path: &str) -> Option<Module> {
    let name = path.strip_prefix(ROOT)?.strip_suffix(".rs")?;
    let mut module: Module = name.split('/').map(str::to_owned).collect();
    match module.last().map(String::as_str)? {
        "main" | "tests" => return None,
        "mod" | "lib" => module.truncate(module.len() - 1),
        _ => {}
    }
    Some(module)
}

/// 0 for the highest: lib.rs, then the rooms, then what every room may use.
fn rank(module: &Module) -> usize {
    let Some(first) = module.first() else { return 0 };
    ROOMS.iter().position(|room| room == first).map_or(ROOMS.len() + 1, |place| place + 1)
}

fn without_tests(code: &str) -> String {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// The modules that the code names: in `use` lines, and by paths that begin with `crate`, `self`, `super` or a module that
/// was imported.
fn imports(own: &Module, code: &str, modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let (uses, rest) = split_uses(code);
    let mut named: Vec<Module> = Vec::new();
    let mut known: BTreeMap<String, Module> = BTreeMap::new();
    for (path, name) in uses.iter().flat_map(|tree| expand(tree)) {
        let Some(path) = absolute(own, &path, modules, &BTreeMap::new()) else { continue };
        if modules.contains(&path) {
            known.insert(name, path.clone());
        }
        named.push(path);
    }
    named.extend(paths(&rest).iter().filter_map(|path| absolute(own, path, modules, &known)));
    named.iter().filter_map(|path| file_of(path, modules)).filter(|module| module != own).collect()
}

/// The trees of the `use` lines, and the code without them.
fn split_uses(code: &str) -> (Vec<String>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    for statement in code.split_inclusive(';') {
        match statement.rfind("use ").filter(|_| statement.ends_with(';')) {
            Some(at) if !statement[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_') => {
                rest.push_str(&statement[..at]);
                uses.push(statement[at + 4..].trim_end_matches(';').split_whitespace().collect::<Vec<_>>().join(" "));
            }
            _ => rest.push_str(statement),
        }
    }
    (uses, rest)
}

/// Every path of a use tree, with the name that it gets.
fn expand(tree: &str) -> Vec<(Module, String)> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut path: Module = path.split("::").map(|part| part.trim().to_owned()).collect();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self" || last == "*") {
            path.pop();
        }
        let name = if alias.is_empty() { path.last().cloned().unwrap_or_default() } else { alias.trim().to_owned() };
        return vec![(path, name)];
    };
    let inside = tree[open + 1..].trim_end().trim_end_matches('}');
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    // The brace that closes this tree went with those of the trees in it: what is open at the end is closed again.
    for (at, character) in inside.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[from..]);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{}{}", &tree[..open], part.trim()))).collect()
}

/// Every path of at least two words.
fn paths(code: &str) -> Vec<Module> {
    let words = code.split(|character: char| !character.is_alphanumeric() && !"_:".contains(character));
    let paths = words.filter(|word| word.contains("::"));
    paths.map(|path| path.split("::").map(str::to_owned).collect()).collect()
}

/// The path from the root of the crate; None where it leads out of the crate.
fn absolute(
    own: &Module,
    path: &[String],
    modules: &BTreeSet<Module>,
    known: &BTreeMap<String, Module>,
) -> Option<Module> {
    let (mut base, mut rest) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (own.clone(), &path[1..]),
        "super" => (own.clone(), path),
        first => match known.get(first) {
            Some(module) => (module.clone(), &path[1..]),
            None => (modules.get(&[own.as_slice(), &[first.to_owned()]].concat())?.clone(), &path[1..]),
        },
    };
    while rest.first().is_some_and(|first| first == "super") {
        base.pop()?;
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// The longest beginning of a path that is a file; the root of the crate is none.
fn file_of(path: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| modules.contains(module))
}

/// The groups of more than two files of which each imports, through others, each.
fn cycles(imports: &BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<BTreeSet<Module>> {
    let reach = |from: &Module| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            let new = imports.get(&module).into_iter().flatten().filter(|to| reached.insert((*to).clone()));
            next.extend(new.cloned().collect::<Vec<_>>());
        }
        reached
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = imports.keys().map(|module| (*module, reach(module))).collect();
    let group = |module: &Module| reached[module].iter().filter(|to| reached[to].contains(module)).cloned().collect();
    reached.keys().map(|module| group(module)).filter(|group: &BTreeSet<Module>| group.len() > 2).collect()
}

fn broken(files: &[(&str, &str)]) -> Vec<String> {
    check(&files.iter().map(|(path, text)| (format!("cri/src/{path}"), (*text).to_owned())).collect::<Vec<_>>())
}

#[test]
fn a_use_of_a_higher_room_is_found_however_it_is_written() {
    for text in [
        "use crate::rpc::status::call;",
        "use crate::{error, rpc::{status::{self, call}, Parts}};",
        "use super::super::rpc::status;",
        "fn f() { crate::rpc::status::call() }",
        "use crate::rpc;\nfn f() { rpc::status::call() }",
        "pub(crate) use crate::rpc::status as answer;",
    ] {
        let found = broken(&[("state/store.rs", text), ("rpc/mod.rs", ""), ("rpc/status.rs", ""), ("error.rs", "")]);
        let wanted = "cri/src/state/store.rs uses cri/src/rpc/status.rs, which is in a higher room";
        assert!(found.iter().any(|line| line == wanted), "{text}: {found:?}");
    }
    let base = broken(&[("error.rs", "use crate::state::store::Store;"), ("state/store.rs", "")]);
    assert_eq!(base, ["cri/src/error.rs uses cri/src/state/store.rs, which is in a higher room"]);
}

#[test]
fn a_circle_of_three_is_found_and_one_of_two_is_not() {
    let two = [("state/a.rs", "use super::b::B;"), ("state/b.rs", "use super::a::A;")];
    assert_eq!(broken(&two), [""; 0]);
    let three = [
        ("state/a.rs", "use std::fmt;\nuse crate::state::{b::B, x};"),
        ("state/b.rs", "use super::c::{self, C};"),
        ("state/c/mod.rs", "pub(crate) mod d;\npub(crate) use d::D;"),
        ("state/c/d.rs", "use crate::state::a::A;"),
    ];
    let files = "cri/src/state/a.rs, cri/src/state/b.rs, cri/src/state/c/mod.rs, cri/src/state/c/d.rs";
    assert_eq!(broken(&three), [format!("{files} import each other in a circle")]);
}

#[test]
fn what_is_right_passes_and_tests_look_where_they_like() {
    let files = [
        ("lib.rs", "pub mod state;\npub use state::store::Store;"),
        ("state/mod.rs", "pub mod store;"),
        (
            "state/store.rs",
            "use host::PodId;\n#[cfg(test)]\nmod tests {\n    use super::Store;\n    use crate::rpc::X;\n}",
        ),
        ("rpc/mod.rs", "mod status;\nuse crate::state::store::Store;"),
        (
            "rpc/status.rs",
            "// crate::server\nuse super::Parts;\nuse crate::state::store;\nfn f() { \"crate::server\" }",
        ),
        ("server/mod.rs", ""),
    ];
    assert_eq!(broken(&files), [""; 0]);
}
