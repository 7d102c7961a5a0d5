//! Platforms, and which entry of an index is meant: the first of the wanted ones that it offers. Pure.

use std::fmt;

use oci_spec::image::Platform as Offer;

use crate::Error;

/// Offers that an error lists; an index may hold hundreds.
const OFFERS_SHOWN: usize = 16;

/// An operating system, an architecture, and the variant where the architecture has some: `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Reads `os/architecture` or `os/architecture/variant`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
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
        Self { os: os.to_lowercase(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
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
        Self { os: os.clone(), architecture: architecture.clone(), variant: variant.clone() }
    }

    /// The system and the architecture.
    pub(crate) fn names(&self) -> (String, String) {
        (self.os.clone(), self.architecture.clone())
    }

    /// Whether this machine runs programs for `offered`. A 32-bit ARM runs those for its predecessors.
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
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// The position of the offer that is meant: of the wanted platforms the first that is offered, and of its offers the one that
/// is nearest.
pub(crate) fn choose(wanted: &[Platform], offers: &[Option<Platform>]) -> Option<usize> {
    wanted.iter().find_map(|wanted| {
        let fitting = offers.iter().enumerate().filter_map(|(at, offer)| Some((at, offer.as_ref()?)));
        let fitting: Vec<_> = fitting.filter(|(_, offer)| wanted.runs(offer)).collect();
        let exact = fitting.iter().find(|(_, offer)| *offer == wanted);
        exact.or_else(|| fitting.iter().max_by(|a, b| a.1.variant.cmp(&b.1.variant))).map(|(at, _)| *at)
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
    format!("offers {offered}, wanted {}", list(&mut wanted.iter()))
}

#[cfg(test)]
mod tests {
    use super::{Platform, choose, mismatch};

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts.iter().map(|text| Platform::parse(text).unwrap()).collect()
    }

    #[test]
    fn the_first_wanted_platform_that_is_offered_is_chosen() {
        let table: [(&[&str], &[&str], Option<usize>); 9] = [
            (&["linux/amd64"], &["linux/arm64", "linux/amd64"], Some(1)),
            (&["freebsd/amd64", "linux/amd64"], &["linux/amd64", "freebsd/amd64"], Some(1)),
            (&["freebsd/amd64", "linux/amd64"], &["linux/amd64"], Some(0)),
            (&["freebsd/amd64"], &["linux/amd64"], None),
            (&["linux/arm64"], &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            (&["linux/aarch64"], &["linux/arm64"], Some(0)),
            (&["linux/arm/v7"], &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            (&["linux/arm/v6"], &["linux/arm/v7"], None),
            (&["linux/amd64"], &["linux/amd64/v3"], None),
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
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "a/b/"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }
}
