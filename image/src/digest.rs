//! Digests: `sha256:` and 64 hexadecimal digits. They name images, layers and chains, and verify every byte from a registry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// The only supported algorithm: the specification allows sha512, but registries do not use it.
const ALGORITHM: &str = "sha256:";
/// Hexadecimal digits of a SHA-256.
const HEX_LENGTH: usize = 64;

/// A SHA-256 digest, written `sha256:…`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// The digest of a finished hash.
    #[must_use]
    pub fn finish(hash: Sha256) -> Self {
        Self(format!("{ALGORITHM}{}", hex::encode(hash.finalize())))
    }

    /// `sha256:` and the digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits, as in file names.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM.len()..]
    }

    /// Parses the 64 digits of a file name.
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        is_hex(digits).then(|| Self(format!("{ALGORITHM}{digits}")))
    }
}

/// Whether a text is 64 lower-case hexadecimal digits.
fn is_hex(digits: &str) -> bool {
    digits.len() == HEX_LENGTH && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.strip_prefix(ALGORITHM).and_then(Self::from_hex).ok_or_else(|| {
            Error::invalid("digest", format!("{text:?} is not sha256: and 64 lower-case hexadecimal digits"))
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), known);
        assert_eq!(known.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn what_is_not_a_digest_is_refused_with_its_text() {
        for text in [
            "",
            "sha256:",
            "sha256:../../etc",
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha512:{}", "a".repeat(64)),
        ] {
            let error = text.parse::<Digest>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
