//! Platforms, and which entry of an index is meant: the first of the wanted ones that it offers, in the newest version that the
//! kernel is not too old for. Pure.

use std::fmt;

use oci_spec::image::Platform as Offer;

use crate::Error;

/// Offers that an error lists; an index may hold hundreds.
const OFFERS_SHOWN: usize = 16;

/// An operating system, perhaps with its version, an architecture, and the variant where the architecture has some: `linux/arm/v7`,
/// `freebsd(15.1)/amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    /// The release of the kernel, or of the userland in an image. Only FreeBSD's is compared.
    version: Option<String>,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Reads `os/architecture` or `os/architecture/variant`, with `os` or `os(version)`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some((os, rest)) = text.split_once('(')
            && let Some((version, rest)) = rest.split_once(')')
        {
            return Ok(Self::parse(&format!("{os}{rest}"))?.in_version(Some(version)));
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture] if !os.is_empty() && !architecture.is_empty() => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if !os.is_empty() && !architecture.is_empty() && !variant.is_empty() => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(Error::invalid("platform", format!("{text:?} is not os/architecture or os/architecture/variant"))),
        }
    }

    /// A platform by its parts, with the architecture's other names and a variant that says nothing put right.
    pub(crate) fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = host::oci_architecture(architecture);
        let variant = match (architecture, variant) {
            // Every 64-bit ARM machine is a v8, and some indexes say so; v1 is what every amd64 has.
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) | (_, Some("")) => None,
            ("arm", None) => Some("v7"),
            (_, variant) => variant,
        };
        let (os, variant) = (os.to_lowercase(), variant.map(str::to_owned));
        Self { os, version: None, architecture: architecture.to_owned(), variant }
    }

    /// The platform in a version of its system.
    pub(crate) fn in_version(self, version: Option<&str>) -> Self {
        let version = version.filter(|version| !version.is_empty()).map(str::to_owned);
        Self { version, ..self }
    }

    /// Whether it names a system and an architecture.
    pub(crate) fn is_whole(&self) -> bool {
        !self.os.is_empty() && !self.architecture.is_empty()
    }

    /// This platform, with the missing parts of another one.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let os = if self.os.is_empty() { &other.os } else { &self.os };
        let (architecture, variant) = match (self.architecture.is_empty(), &self.variant) {
            (true, _) => (&other.architecture, &other.variant),
            (false, variant) => (&self.architecture, variant),
        };
        // A version is one of its system.
        let version = self.version.as_ref().or(other.version.as_ref().filter(|_| *os == other.os)).cloned();
        Self { os: os.clone(), version, architecture: architecture.clone(), variant: variant.clone() }
    }

    /// The system and the architecture.
    pub(crate) fn names(&self) -> (String, String) {
        (self.os.clone(), self.architecture.clone())
    }

    /// Whether this machine runs programs for `offered`, and its kernel is not older than their userland.
    pub(crate) fn accepts(&self, offered: &Self) -> bool {
        let is_newer = self.release().zip(offered.release()).is_some_and(|(own, offered)| offered.0 > own.0);
        self.runs(offered) && !is_newer
    }

    /// Major and minor number of a release of FreeBSD, and its patch level.
    fn release(&self) -> Option<((u32, u32), u32)> {
        let version = self.version.as_deref().filter(|_| self.os == "freebsd")?;
        let patch = version.rsplit_once("-p").and_then(|(_, level)| level.parse().ok());
        Some((host::release_numbers(version)?, patch.unwrap_or(0)))
    }

    /// Whether this machine runs programs for `offered`, in whatever version. A 32-bit ARM runs those for its predecessors.
    pub(crate) fn runs(&self, offered: &Self) -> bool {
        let variant = match (&self.variant, &offered.variant) {
            (wanted, offered) if wanted == offered => true,
            (Some(wanted), Some(offered)) if self.architecture == "arm" => offered < wanted,
            _ => false,
        };
        self.os == offered.os && self.architecture == offered.architecture && variant
    }
}

impl From<&Offer> for Platform {
    fn from(offer: &Offer) -> Self {
        Self::new(&offer.os().to_string(), &offer.architecture().to_string(), offer.variant().as_deref())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_ref().map(|version| format!("({version})")).unwrap_or_default();
        write!(f, "{}{version}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// The position of the offer that is meant: of the wanted platforms the first that is offered, and of its offers the first with the
/// nearest variant and the newest version.
pub(crate) fn choose(wanted: &[Platform], offers: &[Option<Platform>]) -> Option<usize> {
    wanted.iter().find_map(|wanted| {
        let fitting = offers.iter().enumerate().filter_map(|(at, offer)| Some((at, offer.as_ref()?)));
        let fitting = fitting.filter(|(_, offer)| wanted.accepts(offer));
        let best = fitting.rev().max_by_key(|(_, offer)| (&offer.variant, offer.release()));
        best.map(|(at, _)| at)
    })
}

/// The platforms that an image offers and those that are wanted, for an error.
pub(crate) fn mismatch(wanted: &[Platform], offers: &[Option<Platform>]) -> String {
    let list = |platforms: &mut dyn Iterator<Item = &Platform>| {
        let mut names: Vec<String> = platforms.map(ToString::to_string).collect();
        names.dedup();
        names.truncate(OFFERS_SHOWN);
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let offered = list(&mut offers.iter().flatten().filter(|offer| offer.os != "unknown"));
    let is_newer = offers.iter().flatten().any(|offer| wanted.iter().any(|wanted| wanted.runs(offer)));
    let why = if is_newer { ", whose kernel is older: update it, or take an image for it" } else { "" };
    format!("offers {offered}, wanted {}{why}", list(&mut wanted.iter()))
}

#[cfg(test)]
mod tests {
    use super::{Platform, choose, mismatch};

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts.iter().map(|text| Platform::parse(text).unwrap()).collect()
    }

    #[test]
    fn missing_parts_are_those_of_the_same_system() {
        let own = Platform::parse("freebsd(15.1)/amd64").unwrap();
        for (of, whole) in [
            (Platform::new("", "", None), "freebsd(15.1)/amd64"),
            (Platform::new("freebsd", "amd64", None), "freebsd(15.1)/amd64"),
            (Platform::new("freebsd", "amd64", None).in_version(Some("14.3")), "freebsd(14.3)/amd64"),
            (Platform::new("linux", "amd64", None), "linux/amd64"),
        ] {
            assert_eq!(of.or(&own).to_string(), whole);
        }
    }

    #[test]
    fn the_first_wanted_platform_that_is_offered_is_chosen() {
        let table: [(&[&str], &[&str], Option<usize>); 18] = [
            (&["linux/amd64"], &["linux/arm64", "linux/amd64"], Some(1)),
            (&["freebsd/amd64", "linux/amd64"], &["linux/amd64", "freebsd/amd64"], Some(1)),
            (&["freebsd/amd64", "linux/amd64"], &["linux/amd64"], Some(0)),
            (&["freebsd/amd64"], &["linux/amd64"], None),
            (&["linux/arm64"], &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            (&["linux/aarch64"], &["linux/arm64"], Some(0)),
            (&["linux/arm/v7"], &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            (&["linux/arm/v6"], &["linux/arm/v7"], None),
            (&["linux/amd64"], &["linux/amd64/v3"], None),
            (&["linux/arm/v7"], &["linux/arm/v6", "linux/arm/v7", "linux/arm/v7"], Some(1)),
            (&["freebsd(15.1-RELEASE-p1)/amd64"], &["freebsd(15.2)/amd64", "freebsd(14.3)/amd64"], Some(1)),
            (&["freebsd(15.1)/amd64"], &["freebsd(9.3)/amd64", "freebsd(15.0)/amd64", "freebsd(14.3)/amd64"], Some(1)),
            (&["freebsd(15.1)/amd64"], &["freebsd(15.1-RELEASE)/amd64", "freebsd(15.1-RELEASE-p10)/amd64"], Some(1)),
            (&["freebsd(15.1)/amd64"], &["freebsd/amd64", "freebsd(what)/amd64", "freebsd(16.0)/amd64"], Some(0)),
            (&["freebsd(15.1)/amd64"], &["freebsd/amd64", "freebsd(15.1)/amd64"], Some(1)),
            (&["freebsd(15.1)/amd64"], &["freebsd(16.0)/amd64", "freebsd(15.2-STABLE)/amd64"], None),
            (&["freebsd(15.1)/amd64", "linux/amd64"], &["freebsd(16.0)/amd64", "linux/amd64"], Some(1)),
            (&["freebsd/amd64"], &["freebsd(15.1)/amd64", "freebsd(16.0)/amd64"], Some(1)),
        ];
        for (wanted, offers, chosen) in table {
            let offers: Vec<_> = platforms(offers).into_iter().map(Some).collect();
            assert_eq!(choose(&platforms(wanted), &offers), chosen, "{wanted:?} of {offers:?}");
        }
    }

    #[test]
    fn a_mismatch_names_what_is_offered_without_attestations() {
        let offers: Vec<_> = platforms(&["linux/s390x", "unknown/unknown"]).into_iter().map(Some).collect();
        assert_eq!(mismatch(&platforms(&["freebsd/amd64"]), &offers), "offers linux/s390x, wanted freebsd/amd64");
    }

    #[test]
    fn what_is_too_new_is_named_with_the_kernels_version() {
        let offers: Vec<_> = platforms(&["freebsd(15.2)/amd64", "freebsd(16.0)/amd64"]).into_iter().map(Some).collect();
        let text = mismatch(&platforms(&["freebsd(15.1-RELEASE-p1)/amd64"]), &offers);
        let wanted = "offers freebsd(15.2)/amd64, freebsd(16.0)/amd64, wanted freebsd(15.1-RELEASE-p1)/amd64, whose kernel is older";
        assert!(text.starts_with(wanted), "{text}");
    }

    #[test]
    fn missing_parts_are_filled_in() {
        let node = &platforms(&["linux/arm/v7"])[0];
        for (os, architecture, whole) in [
            ("", "", "linux/arm/v7"),
            ("freebsd", "", "freebsd/arm/v7"),
            ("", "amd64", "linux/amd64"),
            ("freebsd", "arm64", "freebsd/arm64"),
        ] {
            let platform = Platform::new(os, architecture, None);
            assert_eq!(platform.is_whole(), !os.is_empty() && !architecture.is_empty());
            assert_eq!(platform.or(node).to_string(), whole);
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "a/b/", "(1.0)/b", "a(1.0", "a(1.0)"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }
}
