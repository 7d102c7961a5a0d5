//! The rules for one source file. Each is a function of the file that names what is wrong with it; the test at the end shows
//! every rule a file that breaks it.

use crate::source::{code, has_word};

/// Think at 300, split at 500.
const LINES: usize = 500;
/// Words that say nothing of what a thing is.
const EMPTY_WORDS: [&str; 5] = ["Manager", "Handler", "Helper", "Util", "Factory"];
/// What an unfinished thing leaves; one text each, so that this file does not hold them.
const MARKS: [&str; 4] =
    [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X")];
/// Verbs that remove something from a kernel.
const REMOVALS: [&str; 10] = [
    "remove_pod",
    "remove_container",
    "destroy",
    "unmount",
    "umount2",
    "detach",
    "discard",
    "delete",
    "teardown",
    "kill",
];

/// Crates that lie in the directory of another.
const NESTED: [&str; 6] =
    ["cri/demo", "cri/monitor", "cri/streaming", "image/testimage", "network/nameserver", "runtime/host"];

struct Source<'a> {
    path: &'a str,
    text: &'a str,
    code: String,
}

impl Source<'_> {
    /// The crate's directory: the inner one for a crate that is nested in another.
    fn krate(&self) -> &str {
        let nested = NESTED.iter().find(|path| self.path.starts_with(&format!("{path}/")));
        let path = nested.and_then(|path| path.rsplit('/').next());
        path.unwrap_or_else(|| self.path.split('/').next().unwrap_or_default())
    }

    fn is_module(&self, name: &str) -> bool {
        self.path.split('/').any(|part| part == name || part.strip_suffix(".rs") == Some(name))
    }

    /// Whether it holds nothing but tests, which may pick a backend, start what they test against, and clean up by Drop.
    fn is_test(&self) -> bool {
        self.is_module("tests")
    }
}

/// What this file does that it should not.
pub(crate) fn check(path: &str, text: &str) -> Vec<String> {
    let source = Source { path, text, code: code(text) };
    let rules = [
        opens_with_a_paragraph,
        is_not_too_long,
        has_no_empty_names,
        has_no_unfinished_marks,
        picks_the_system_in_one_place,
        keeps_cri_at_the_edge,
        runs_programs_in_host,
        is_unsafe_in_sys,
        removes_nothing_by_drop,
    ];
    rules.iter().flat_map(|rule| rule(&source)).map(|what| format!("{path}: {what}")).collect()
}

fn opens_with_a_paragraph(source: &Source) -> Vec<String> {
    let opens = source.text.starts_with("//! ");
    if opens { vec![] } else { vec!["does not open with a //! paragraph that says what it is".into()] }
}

fn is_not_too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= LINES { vec![] } else { vec![format!("{lines} lines: split it (at most {LINES})")] }
}

fn has_no_empty_names(source: &Source) -> Vec<String> {
    let mut words = source
        .code
        .split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty());
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        if !["struct", "enum", "trait", "type", "union"].contains(&word) {
            continue;
        }
        let Some(name) = words.next() else { break };
        if EMPTY_WORDS.iter().any(|empty| name.contains(empty)) {
            found.push(format!("the name {name} says nothing of what it is"));
        }
    }
    let modules = ["util", "utils", "helper", "helpers", "common", "misc"];
    found.extend(modules.iter().filter(|name| source.is_module(name)).map(|name| format!("a module called {name}")));
    found
}

fn has_no_unfinished_marks(source: &Source) -> Vec<String> {
    let ignored = has_word(&source.code, "ignore") && source.code.contains("#[ignore");
    let marks = MARKS.iter().filter(|mark| source.text.contains(**mark)).map(|mark| format!("holds {mark}"));
    marks.chain(ignored.then(|| "holds an ignored test".to_owned())).collect()
}

/// `target_os` stands only on the line that picks a module, in a module that does nothing else, or in the tests of a backend.
fn picks_the_system_in_one_place(source: &Source) -> Vec<String> {
    let allowed = source.is_module("platform") || source.is_test();
    if allowed && !["cri", "streaming", "proto", "e2e"].contains(&source.krate()) {
        return vec![];
    }
    let lines: Vec<&str> = source.code.lines().collect();
    let picks = |from: usize| {
        let rest =
            lines[from..].iter().map(|line| line.trim()).find(|line| !line.is_empty() && !line.starts_with("#["));
        let rest = rest.unwrap_or_default().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        ["mod ", "use "].iter().any(|word| rest.starts_with(word))
    };
    let wrong = |(at, line): (usize, &&str)| {
        let picked = line.trim_start().starts_with("#[cfg(")
            && picks(at)
            && !["cri", "streaming", "proto"].contains(&source.krate());
        (has_word(line, "target_os") && !picked)
            .then(|| format!("line {}: target_os where no backend is picked", at + 1))
    };
    lines.iter().enumerate().filter_map(wrong).collect()
}

fn keeps_cri_at_the_edge(source: &Source) -> Vec<String> {
    if ["proto", "cri", "demo", "e2e"].contains(&source.krate()) {
        return vec![];
    }
    let crates = ["proto", "k8s_cri", "tonic", "prost"];
    // Not a module of that name in another crate.
    let inside = |before: char| before == ':' || before == '_' || before.is_alphanumeric();
    let uses = |name: &&&str| {
        source.code.match_indices(&format!("{name}::")).any(|(at, _)| !source.code[..at].ends_with(inside))
    };
    crates.iter().filter(uses).map(|name| format!("uses {name}: CRI is the business of proto and cri")).collect()
}

fn runs_programs_in_host(source: &Source) -> Vec<String> {
    if source.krate() == "host" || source.path == "e2e/src/process.rs" || source.is_test() {
        return vec![];
    }
    // The word alone: std::os::unix::process::CommandExt starts nothing.
    let uses = has_word(&source.code, "Command")
        && (source.code.contains("Command::new") || source.code.contains("process::Command"));
    if uses { vec!["starts a program; use host::run or host::worker".into()] } else { vec![] }
}

fn is_unsafe_in_sys(source: &Source) -> Vec<String> {
    let wrong = has_word(&source.code, "unsafe") && !source.is_module("sys");
    if wrong { vec!["is unsafe outside a module named sys".into()] } else { vec![] }
}

/// A Drop that removes something from the kernel would do so for a server that crashes or a future that is cancelled at the
/// wrong time, and would hide its error. e2e is excepted as tests are: it ends the processes that it started.
fn removes_nothing_by_drop(source: &Source) -> Vec<String> {
    if source.krate() == "e2e" || source.is_test() {
        return vec![];
    }
    let mut found = Vec::new();
    for (at, _) in source.code.match_indices(" Drop for ") {
        let body = block(&source.code[at..]);
        let words = || body.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        found.extend(
            REMOVALS
                .iter()
                .filter(|verb| words().any(|word| word == **verb))
                .map(|verb| format!("a Drop that may {verb}")),
        );
        if body.contains("Tool::new") {
            found.push("a Drop that runs a program".into());
        }
    }
    found
}

/// The first block in braces.
fn block(code: &str) -> &str {
    let mut depth = 0;
    for (at, character) in code.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return &code[..at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    code
}

#[test]
fn every_rule_can_fail() {
    let unfinished = format!("//! x\nfn f() {{ {}) }}", MARKS[0]);
    let long = format!("//! x\n{}", "\n".repeat(LINES));
    for (path, text, wanted) in [
        ("cri/src/a.rs", "fn f() {}", "//! paragraph"),
        ("cri/src/a.rs", long.as_str(), "split it"),
        ("cri/src/a.rs", "//! x\npub struct PodManager;", "says nothing"),
        ("cri/src/utils.rs", "//! x", "a module called utils"),
        ("cri/src/a.rs", unfinished.as_str(), "holds todo"),
        ("cri/src/a.rs", "//! x\n#[ignore = \"\"]\nfn f() {}", "ignored test"),
        ("runtime/src/a.rs", "//! x\n#[cfg(target_os = \"linux\")]\nfn f() {}", "line 2: target_os"),
        ("runtime/src/a.rs", "//! x\nfn f() -> bool { cfg!(target_os = \"linux\") }", "line 2: target_os"),
        ("cri/src/a.rs", "//! x\n#[cfg(target_os = \"linux\")]\nmod b;", "line 2: target_os"),
        ("network/src/a.rs", "//! x\nuse proto::v1::Mount;", "uses proto"),
        ("image/src/a.rs", "//! x\nfn f() { Command::new(\"ls\"); }", "starts a program"),
        ("runtime/src/a.rs", "//! x\nfn f() { unsafe { g() } }", "is unsafe"),
        ("network/src/a.rs", "//! x\nimpl Drop for A { fn drop(&mut self) { self.detach() } }", "Drop that may detach"),
    ] {
        let found = check(path, text);
        assert!(found.len() == 1 && found[0].contains(wanted), "{text}: {found:?}, not {wanted}");
    }
}

#[test]
fn what_is_right_passes() {
    for (path, text) in [
        (
            "runtime/src/lib.rs",
            "//! x\n#[cfg(target_os = \"linux\")]\n#[path = \"linux/mod.rs\"]\npub(crate) mod linux;",
        ),
        ("runtime/src/platform.rs", "//! x\npub fn f() -> bool { cfg!(target_os = \"linux\") }"),
        ("runtime/src/linux/sys.rs", "//! x\nfn f() { unsafe { g() } }"),
        ("runtime/host/src/run.rs", "//! x\nfn f() { Command::new(\"ls\"); }"),
        (
            "cri/src/a.rs",
            "//! x\n// unsafe, Command::new\nuse proto::v1::RuntimeHandler;\nimpl Drop for A { fn drop(&mut self) { self.notify() } }",
        ),
    ] {
        assert_eq!(check(path, text), [""; 0], "{path}");
    }
}
