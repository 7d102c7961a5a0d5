//! The jail parameters that a container may ask for by name, and their values (jail(8); FreeBSD). Pure: a server refuses a bad
//! one before anything is made.

/// The longest release, without its NUL (OSRELEASELEN in sys/jail.h is 32).
const RELEASE_LENGTH: usize = 31;
/// The longest release of Linux, without its NUL (LINUX_MAX_UTSNAME in compat/linux/linux_misc.h is 65).
const LINUX_RELEASE_LENGTH: usize = 64;
/// The longest `meta` or `env`: the default of security.jail.meta_maxbufsize is 4096, and a pod's names are in `meta` too.
const TEXT_LENGTH: usize = 2048;

/// The values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`: a right, given or taken.
    Truth,
    /// A number above 0.
    Number,
    /// A release of FreeBSD.
    Release,
    /// A release of Linux, which begins with three numbers.
    LinuxRelease,
    /// Any text.
    Text,
}

/// Every parameter, by its name. No name is another one's beginning up to a dot.
pub const PARAMETERS: [(&str, Kind); 10] = [
    ("allow.chflags", Kind::Truth),
    ("allow.mlock", Kind::Truth),
    ("allow.raw_sockets", Kind::Truth),
    ("allow.read_msgbuf", Kind::Truth),
    ("allow.vmm", Kind::Truth),
    ("env", Kind::Text),
    ("linux.osrelease", Kind::LinuxRelease),
    ("meta", Kind::Text),
    ("osreldate", Kind::Number),
    ("osrelease", Kind::Release),
];

/// The kind of a parameter; None: no container can ask for it.
#[must_use]
pub fn kind(name: &str) -> Option<Kind> {
    PARAMETERS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// Checks a value.
///
/// # Errors
/// The value and its fault.
pub fn check(kind: Kind, value: &str) -> Result<(), String> {
    let printed = value.bytes().all(|byte| byte.is_ascii_graphic());
    let (valid, wanted) = match kind {
        Kind::Truth => (matches!(value, "true" | "false"), "neither true nor false".to_owned()),
        Kind::Number => (value.parse::<i32>().is_ok_and(|number| number > 0), "no number above 0".to_owned()),
        Kind::Release => (
            printed && (1..=RELEASE_LENGTH).contains(&value.len()),
            format!("no release of 1 to {RELEASE_LENGTH} printable characters"),
        ),
        Kind::LinuxRelease => (
            printed && value.len() <= LINUX_RELEASE_LENGTH && three_numbers(value),
            "no release of Linux such as 6.1.0 or 5.15.0-1".to_owned(),
        ),
        Kind::Text => {
            (value.len() <= TEXT_LENGTH && !value.contains('\0'), format!("no text of at most {TEXT_LENGTH} bytes"))
        }
    };
    if valid { Ok(()) } else { Err(format!("{value:?} is {wanted}")) }
}

/// As the kernel reads it (`linux_map_osrel` in compat/linux/linux_mib.c), which wants 1.0.0 at least.
fn three_numbers(release: &str) -> bool {
    let numbers: Vec<_> = release.split('-').next().unwrap_or_default().split('.').map(str::parse::<u8>).collect();
    matches!(numbers[..], [Ok(1..), Ok(_), Ok(_)]) && !release.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::{PARAMETERS, check, kind};

    #[test]
    fn values_are_checked_by_their_kind() {
        let long = "x".repeat(2049);
        for (name, good, bad) in [
            ("allow.mlock", &["true", "false"][..], &["", "1", "yes", "TRUE"][..]),
            ("osreldate", &["1403000"], &["0", "-1", "14.3", "99999999999"]),
            ("osrelease", &["14.3-RELEASE", "x"], &["", "14.3 RELEASE", "14.3-RELEASE-with-a-very-long-name", "a\nb"]),
            ("linux.osrelease", &["6.1.0", "5.15.0-1-amd64"], &["6.1", "6.1.x", "0.9.0", "6.1.0-", "6.1.0.1", ""]),
            ("meta", &["", "a=b\nc=d\n"], &["a\0b", &long]),
        ] {
            let kind = kind(name).unwrap();
            for value in good {
                check(kind, value).unwrap();
            }
            for value in bad {
                assert!(check(kind, value).unwrap_err().starts_with(&format!("{value:?} is ")), "{name} {value:?}");
            }
        }
        assert_eq!(kind("vnet"), None);
    }

    #[test]
    fn a_name_and_a_dot_begin_no_other_name() {
        for (name, _) in PARAMETERS {
            assert!(PARAMETERS.iter().all(|(other, _)| !other.starts_with(&format!("{name}."))), "{name}");
        }
    }
}
