//! The FreeBSD that an image was made of. Its programs may use whatever their kernel had, so a kernel runs userlands of its own
//! release and of older ones: FreeBSD keeps the system calls of old releases (COMPAT_FREEBSD* in sys/amd64/conf/GENERIC), and a new
//! release, a minor one too, adds some that an old kernel answers with SIGSYS. Programs that ask for the release (pkg, configure
//! scripts, `uname -r`) hear that of the userland. Pure.

use host::release_numbers;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The script that says the version of the userland (freebsd-version(1)); freebsd-static has none.
pub(super) const SCRIPT: &str = "/bin/freebsd-version";
/// Bytes of it that are read: it has 4 KiB, its version in the first two.
pub(super) const SCRIPT_BYTES: u64 = 64 << 10;
/// The beginning of the script's line with the version.
const VARIABLE: &str = "USERLAND_VERSION=";
/// Bytes of a release, without the NUL (OSRELEASELEN in sys/jail.h is 32).
const RELEASE_LENGTH: usize = 31;
/// `__FreeBSD_version` of the first releases of their branches, which end in what 0 to 9 changes during the freeze made of them
/// (Porter's Handbook, "__FreeBSD_version Values"); later ones have the form XXYY000.
const FIRST_RELEASES: [(u32, i32); 4] = [(12, 1_200_086), (13, 1_300_139), (14, 1_400_097), (15, 1_500_068)];

/// The release that a container's jail tells its programs: `osrelease` and `osreldate` in jail(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Release {
    /// `14.3-RELEASE-p2`.
    pub(super) name: String,
    /// `__FreeBSD_version`; None: it is not known, and the kernel's stays.
    pub(super) date: Option<i32>,
}

/// The version of the userland that the script says. None: it does not, or there is no script.
pub(super) fn version(script: &str) -> Option<String> {
    let text = script.lines().find_map(|line| line.strip_prefix(VARIABLE))?.trim().trim_matches('"');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!text.is_empty() && text.len() <= RELEASE_LENGTH && text.bytes().all(fits)).then(|| text.to_owned())
}

/// Decides what the jail of a container with this userland tells, on this kernel. None: what the kernel tells.
///
/// # Errors
/// [`Error::Invalid`]: the userland is newer.
pub(super) fn decide(userland: Option<&str>, kernel: &str) -> Result<Option<Release>, Error> {
    let known = userland.and_then(|release| Some((release, release_numbers(release)?))).zip(release_numbers(kernel));
    let Some(((release, own), kernels)) = known else { return Ok(None) };
    match own.cmp(&kernels) {
        std::cmp::Ordering::Equal => Ok(None),
        std::cmp::Ordering::Less => Ok(Some(Release { name: release.to_owned(), date: date(release, own) })),
        std::cmp::Ordering::Greater => {
            let reason = format!(
                "its userland is FreeBSD {release}, newer than the kernel's {kernel}: its programs may use system calls that \
                 this kernel does not have. Update the kernel, or take an image for {}.{} or older",
                kernels.0, kernels.1
            );
            Err(Error::invalid("image", reason))
        }
    }
}

/// `__FreeBSD_version` of a release.
fn date(release: &str, (major, minor): (u32, u32)) -> Option<i32> {
    let branch = release.split('-').nth(1)?;
    if branch != "RELEASE" || minor > 99 {
        return None;
    }
    if minor == 0 {
        return FIRST_RELEASES.iter().find(|(first, _)| *first == major).map(|(_, date)| *date);
    }
    i32::try_from(major * 100_000 + minor * 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::{Release, decide, version};

    #[test]
    fn the_script_says_the_version() {
        for (script, said) in [
            ("#!/bin/sh\nset -e\n\nUSERLAND_VERSION=\"15.1-RELEASE-p1\"\n\n: ${ROOT:=}\n", Some("15.1-RELEASE-p1")),
            ("USERLAND_VERSION=14.3-STABLE\n", Some("14.3-STABLE")),
            ("USERLAND_VERSION=\"$(rm -rf /)\"\n", None),
            ("USERLAND_VERSION=\"\"\n", None),
            ("USERLAND_VERSION=\"15.1-RELEASE-with-a-very-long-name-of-its-own\"\n", None),
            ("echo USERLAND_VERSION=\"1.0\"\n", None),
            ("", None),
        ] {
            assert_eq!(version(script).as_deref(), said, "{script}");
        }
    }

    #[test]
    fn an_older_userland_runs_and_hears_of_itself() {
        let release = |name: &str, date| Some(Release { name: name.to_owned(), date });
        let kernel = "15.1-RELEASE-p1";
        for (userland, tells) in [
            (None, None),
            (Some("unknown"), None),
            (Some("15.1-RELEASE"), None),
            (Some("15.1-RELEASE-p9"), None),
            (Some("15.1-STABLE"), None),
            (Some("15.0-RELEASE-p3"), release("15.0-RELEASE-p3", Some(1_500_068))),
            (Some("14.3-RELEASE"), release("14.3-RELEASE", Some(1_403_000))),
            (Some("14.0-RELEASE"), release("14.0-RELEASE", Some(1_400_097))),
            (Some("14.3-STABLE"), release("14.3-STABLE", None)),
            (Some("11.0-RELEASE"), release("11.0-RELEASE", None)),
            (Some("9.3-RELEASE"), release("9.3-RELEASE", Some(903_000))),
        ] {
            assert_eq!(decide(userland, kernel).unwrap(), tells, "{userland:?}");
        }
        assert_eq!(decide(Some("16.0-CURRENT"), "unknown").unwrap(), None, "nobody knows which is newer");
    }

    #[test]
    fn a_newer_userland_is_refused_with_both_versions() {
        for (userland, kernel) in
            [("15.2-RELEASE", "15.1-RELEASE-p1"), ("16.0-CURRENT", "15.1-RELEASE"), ("15.10-RELEASE", "15.9-RELEASE")]
        {
            let error = decide(Some(userland), kernel).unwrap_err().to_string();
            assert!(error.contains(userland) && error.contains(kernel) && error.starts_with("image: "), "{error}");
        }
    }
}
