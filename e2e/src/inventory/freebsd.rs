//! The inventory of a FreeBSD machine, from its own programs: processes with their jails, jails (dying ones too), mounts,
//! interfaces, pf's anchors, rctl rules, devfs rulesets and ZFS datasets.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::process::Program;

/// The commands, and the kind of object on each line. A missing program, or one without its kernel module, lists nothing.
const QUESTIONS: [(&str, &[&str]); 7] = [
    // One option for each column: a header extends to the end of its argument.
    ("process", &["ps", "-axww", "-o", "pid=", "-o", "jail=", "-o", "command="]),
    ("jail", &["jls", "-d", "-q", "name"]),
    ("mount", &["mount", "-p"]),
    ("anchor", &["pfctl", "-q", "-v", "-s", "Anchors"]),
    ("rctl", &["rctl"]),
    ("ruleset", &["devfs", "rule", "showsets"]),
    ("dataset", &["zfs", "list", "-H", "-t", "all", "-o", "name"]),
];

/// One line for each object.
pub(super) fn lines() -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    let interfaces = Program::new("ifconfig", ["-l"]).run()?;
    lines.extend(interfaces.split_whitespace().map(|name| format!("interface {name}")));
    for (kind, question) in QUESTIONS {
        let Ok(answer) = Program::new(question[0], &question[1..]).output() else { continue };
        lines.extend(answer.stdout.lines().filter_map(|line| of(kind, line)));
    }
    Ok(lines)
}

/// A line of the inventory; None for objects that no pod leaves: kernel threads, the listing process, empty anchors, the layers of
/// images.
fn of(kind: &str, printed: &str) -> Option<String> {
    let words: Vec<&str> = printed.split_whitespace().collect();
    match (kind, &words[..]) {
        (_, []) => None,
        ("process", [_, _, command, ..]) if command.starts_with('[') || *command == "ps" => None,
        // pf keeps an empty anchor that had tables, and so its parent, which all pods of a server share (seen on 15.1).
        ("anchor", [anchor]) if anchor.ends_with("/node") || !anchor.contains('/') => None,
        ("dataset", [name])
            if name.contains("/chains/")
                || ["/chains", "/containers", "/imported", "/kept", "/trash"].iter().any(|end| name.ends_with(end)) =>
        {
            None
        }
        ("process", [pid, "-", command @ ..]) => Some(format!("process {pid} {}", command.join(" "))),
        ("process", [pid, jail, command @ ..]) => Some(format!("process {pid} {} (jail {jail})", command.join(" "))),
        _ => Some(format!("{kind} {}", words.join(" "))),
    }
}

#[test]
fn what_is_printed_is_read() {
    for (kind, printed, line) in [
        ("process", "  12  -  /usr/sbin/cron -s", Some("process 12 /usr/sbin/cron -s")),
        ("process", " 901 ed0123.4567 sleep 1000", Some("process 901 sleep 1000 (jail ed0123.4567)")),
        ("process", "   0  -  [kernel]", None),
        ("process", " 902  -  ps -axww", None),
        ("mount", "devfs\t\t/dev\t\tdevfs\trw \t\t0 0", Some("mount devfs /dev devfs rw 0 0")),
        ("anchor", "  cellblock-ed/0123456789ab", Some("anchor cellblock-ed/0123456789ab")),
        ("anchor", "  cellblock-ed/node", None),
        ("anchor", "  cellblock-ed", None),
        ("dataset", "tank/cellblock/chains/0123@layer", None),
        ("dataset", "tank/cellblock/containers", None),
        ("dataset", "tank/cellblock/trash", None),
        ("dataset", "tank/cellblock/trash/chains-0123-ab", Some("dataset tank/cellblock/trash/chains-0123-ab")),
        ("dataset", "tank/cellblock/containers/0123", Some("dataset tank/cellblock/containers/0123")),
        ("jail", "", None),
    ] {
        assert_eq!(of(kind, printed).as_deref(), line, "{printed:?}");
    }
}
