//! Image references, parsed and normalised as in containerd and docker: `busybox` is `docker.io/library/busybox:latest`, and a
//! digest overrides a tag. Pure.

use std::fmt;

use crate::{Digest, Error};

/// Bytes of `domain/path`; the limit of the distribution specification.
const NAME_LENGTH: usize = 255;
/// Bytes of a tag; the limit of the distribution specification.
const TAG_LENGTH: usize = 128;
/// The default registry.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The old name of the default registry.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The first component of official images on docker.io.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A normalised image reference: a registry, a repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    target: Target,
}

/// A tag or a digest in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A mutable name.
    Tag(String),
    /// Immutable content.
    Digest(Digest),
}

impl Reference {
    /// Parses a reference and adds the defaults.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the text and its fault.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::invalid("image reference", format!("{text:?}: {reason}"));
        if Digest::from_hex(text).is_some() {
            return Err(refuse("it is the digits of an id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(|_| {
                    refuse("its digest is not sha256: and 64, or sha512: and 128 lower-case hexadecimal digits")
                })?),
            ),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag has other characters than letters, digits, _, . and -, or is too long"));
        }
        let (domain, path) = complete(name);
        if !is_domain(&domain) {
            return Err(refuse("its registry is not a host name with an optional port"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse("its repository must be lower case"));
        }
        if !path.split('/').all(is_component) {
            return Err(refuse("its repository is not lower-case letters and digits joined by /, ., _ or -"));
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH {
            return Err(refuse("its name is longer than 255 bytes"));
        }
        let target = digest.map_or_else(|| Target::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()), Target::Digest);
        Ok(Self { domain, path, target })
    }

    /// The registry: a host and perhaps a port.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag or the digest.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The reference of a digest in the same repository.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { target: Target::Digest(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

/// Splits off the tag: the text after a colon behind the last slash (an earlier colon precedes a port).
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// Splits a name into registry and repository. The first component is a registry if it looks like a host: it has a dot or a port,
/// is `localhost`, or has an upper-case letter, which a repository may not have.
fn complete(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_LENGTH && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("v6", port.strip_prefix(':').or((!port.is_empty()).then_some("")))
            }
            _ => return false,
        },
        None => domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| !port.is_empty() && port.parse::<u16>().is_ok())
}

/// Letters and digits, joined by one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let mut seen = false;
    for c in component.chars() {
        match c {
            c if c.is_ascii() && alphanumeric(c as u8) => {
                let joined =
                    matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
                if !joined || (!seen && !separator.is_empty()) {
                    return false;
                }
                seen = true;
                separator.clear();
            }
            '.' | '_' | '-' => separator.push(c),
            _ => return false,
        }
    }
    seen && separator.is_empty()
}

#[cfg(test)]
mod tests {
    use super::Reference;

    #[test]
    fn references_are_completed_as_docker_does() {
        let hex = "0123456789abcdef".repeat(4);
        let table = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox:a", "docker.io/library/busybox:a"),
            ("team/tool", "docker.io/team/tool:latest"),
            ("localhost/tool", "localhost/tool:latest"),
            ("localhost:5000/tool", "localhost:5000/tool:latest"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("[::1]/a", "[::1]/a:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("Registry/pause", "Registry/pause:latest"),
            ("a.b/c__d/e-f--g.h:V_1.-", "a.b/c__d/e-f--g.h:V_1.-"),
            ("quay.io:443/x", "quay.io:443/x:latest"),
        ];
        for (text, whole) in table {
            assert_eq!(Reference::parse(text).unwrap().to_string(), whole, "{text}");
            assert_eq!(Reference::parse(whole).unwrap().to_string(), whole, "{whole} is complete");
        }
        let digest = format!("busybox@sha256:{hex}");
        assert_eq!(Reference::parse(&digest).unwrap().to_string(), format!("docker.io/library/{digest}"));
        let long = format!("quay.io/a@sha512:{hex}{hex}");
        assert_eq!(Reference::parse(&long).unwrap().to_string(), long);
        let both = format!("localhost:5000/b:1@sha256:{hex}");
        assert_eq!(Reference::parse(&both).unwrap().to_string(), format!("localhost:5000/b@sha256:{hex}"));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_its_text() {
        let hex = "0123456789abcdef".repeat(4);
        let long = format!("a/{}", "b".repeat(255));
        let tag = format!("a:{}", "b".repeat(129));
        let table = [
            "",
            ":",
            "a:",
            "a:b:c",
            "@",
            "a@b",
            "a@sha256:12",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a/../b",
            "../a",
            "a b",
            "a\n",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a._b",
            "host.name:port/a",
            "host.name:/a",
            "host.name:99999/a",
            "[::1/a",
            "[zz]:5000/a",
            "[::1]x/a",
            "-x.y/a",
            "x..y/a",
            "a:.b",
            "a:b/",
            "é",
            hex.as_str(),
            long.as_str(),
            tag.as_str(),
        ];
        for text in table {
            let error = Reference::parse(text).expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
