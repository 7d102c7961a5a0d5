//! Reads variables of rc.conf(5). It is a shell script; plain assignments are understood, which is what sysrc(8) writes.

use std::collections::BTreeMap;
use std::path::Path;

/// The files that rc.subr(8) sources for the service jail; a later assignment replaces an earlier one.
const FILES: [&str; 4] = ["/etc/rc.conf", "/etc/rc.conf.local", "/etc/rc.conf.d/jail", "/usr/local/etc/rc.conf.d/jail"];

/// Reads this machine's variables. A file that cannot be read has none.
pub(super) fn read() -> BTreeMap<String, String> {
    let texts = FILES.iter().filter_map(|file| std::fs::read_to_string(Path::new(file)).ok());
    texts.flat_map(|text| parse(&text)).collect()
}

/// Whether a value means yes, as checkyesno of rc.subr(8) decides.
pub(super) fn is_yes(value: Option<&String>) -> bool {
    value.is_some_and(|value| ["yes", "true", "on", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes)))
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let assignments = text.lines().filter_map(|line| line.trim().split_once('='));
    let names = assignments.filter(|(name, _)| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
    names.map(|(name, value)| (name.to_owned(), unquote(value).to_owned())).collect()
}

/// Returns a word without its quotes and what follows it.
fn unquote(value: &str) -> &str {
    let quote = value.chars().next().filter(|first| ['"', '\''].contains(first));
    let (value, end) = match quote {
        Some(quote) => (&value[1..], value[1..].find(quote)),
        None => (value, value.find([' ', '\t', ';', '#'])),
    };
    &value[..end.unwrap_or(value.len())]
}

#[cfg(test)]
mod tests {
    use super::{is_yes, parse};

    #[test]
    fn assignments_are_read_as_the_shell_does() {
        let rc = parse(
            "# jail_enable=\"NO\"\njail_enable=NO # once\n  jail_enable=\"Yes\"; x=1\njail_list='a b'\nempty=\"\"\nif [ a = b ]; then\n",
        );
        let get = |name| rc.get(name).map(String::as_str);
        assert_eq!(get("jail_enable"), Some("Yes"));
        assert_eq!(get("jail_list"), Some("a b"));
        assert_eq!(get("empty"), Some(""));
        assert_eq!(rc.len(), 3, "{rc:?}");
    }

    #[test]
    fn yes_is_what_rc_takes_for_it() {
        for (value, yes) in [("YES", true), ("on", true), ("1", true), ("True", true), ("NO", false), ("", false)] {
            assert_eq!(is_yes(Some(&value.to_owned())), yes, "{value}");
        }
        assert!(!is_yes(None));
    }
}
