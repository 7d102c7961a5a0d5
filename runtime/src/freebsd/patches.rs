//! Kernels with known flaws by which a process leaves its jail or becomes root in it, by the release and patch level of `uname
//! -r` (kern.osrelease). From the security advisories up to FreeBSD-SA-26:49 (security.freebsd.org).

/// The oldest release that still gets security fixes.
const OLDEST_SUPPORTED: (u32, u32) = (14, 3);

/// A release, its first patch level without the worst known flaw, and that flaw.
type Fix = ((u32, u32), u32, &'static str);

const FIXES: [Fix; 4] = [
    ((14, 3), 16, "a set-user-ID program can be taken over (FreeBSD-SA-26:39.execve)"),
    ((14, 4), 7, "a set-user-ID program can be taken over (FreeBSD-SA-26:39.execve)"),
    ((15, 0), 11, "a container's user can gain rights of the kernel (FreeBSD-SA-26:38.jail)"),
    ((15, 1), 1, "a container's user can gain rights of the kernel (FreeBSD-SA-26:38.jail)"),
];

/// A known flaw of a kernel and its remedy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) flaw: String,
    /// The first version without it.
    pub(super) update: String,
}

/// The known flaw of the kernel with this kern.osrelease. None: there is none, or it is no release.
pub(super) fn known(osrelease: &str) -> Option<Known> {
    let (number, rest) = osrelease.split_once("-RELEASE")?;
    let release = host::release_numbers(number)?;
    let patch: u32 = if rest.is_empty() { 0 } else { rest.strip_prefix("-p")?.parse().ok()? };
    if release < OLDEST_SUPPORTED {
        let (major, minor) = OLDEST_SUPPORTED;
        let update = format!("{major}.{minor} or newer");
        return Some(Known { flaw: "no security fixes are made for it any more".to_owned(), update });
    }
    let (_, fixed, flaw) = FIXES.iter().find(|(of, fixed, _)| *of == release && patch < *fixed)?;
    Some(Known { flaw: (*flaw).to_owned(), update: format!("{number}-RELEASE-p{fixed} or newer") })
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn a_kernel_is_known_by_its_release_and_patch_level() {
        for (osrelease, update) in [
            ("15.1-RELEASE", Some("15.1-RELEASE-p1 or newer")),
            ("15.1-RELEASE-p1", None),
            ("15.0-RELEASE-p10", Some("15.0-RELEASE-p11 or newer")),
            ("14.4-RELEASE-p6", Some("14.4-RELEASE-p7 or newer")),
            ("14.3-RELEASE-p16", None),
            ("14.2-RELEASE-p7", Some("14.3 or newer")),
            ("15.2-RELEASE", None),
            ("16.0-CURRENT", None),
            ("15.1-STABLE", None),
            ("15.1-RELEASE-x", None),
            ("", None),
        ] {
            let known = known(osrelease);
            assert_eq!(known.as_ref().map(|known| known.update.as_str()), update, "{osrelease}");
            assert!(known.is_none_or(|known| !known.flaw.is_empty()));
        }
    }
}
