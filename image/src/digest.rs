//! Digests: an algorithm, a colon, and hexadecimal digits. They name images, layers and chains, and verify every byte from a
//! registry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::Error;

/// A hash algorithm that the OCI image specification registers and registries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `sha256`, the usual one.
    Sha256,
    /// `sha512`.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name in front of the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Hexadecimal digits of a digest.
    fn length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// Starts a hash.
    #[must_use]
    pub fn start(self) -> Hash {
        match self {
            Self::Sha256 => Hash::Sha256(Sha256::new()),
            Self::Sha512 => Hash::Sha512(Sha512::new()),
        }
    }

    /// The digest of these bytes.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hash = self.start();
        hash.update(bytes);
        hash.finish()
    }
}

/// A hash of the bytes so far.
#[derive(Debug, Clone)]
pub enum Hash {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hash {
    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all bytes.
    #[must_use]
    pub fn finish(self) -> Digest {
        let (algorithm, digits) = match self {
            Self::Sha256(hash) => (Algorithm::Sha256, hex::encode(hash.finalize())),
            Self::Sha512(hash) => (Algorithm::Sha512, hex::encode(hash.finalize())),
        };
        Digest(format!("{}:{digits}", algorithm.name()))
    }
}

/// A digest, written `sha256:…`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The SHA-256 digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Algorithm::Sha256.digest(bytes)
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        Algorithm::of_name(self.parts().0).expect("it was parsed or made by a known algorithm")
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits, as in file names.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').expect("a digest has a colon")
    }

    /// Parses the digits of a file name: their number tells the algorithm.
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.length() == digits.len())?;
        let hexadecimal = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hexadecimal.then(|| Self(format!("{}:{digits}", algorithm.name())))
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text.split_once(':').and_then(|(_, digits)| Self::from_hex(digits));
        // The algorithm in the name must be the one whose digests have this length.
        parsed.filter(|digest| digest.0 == text).ok_or_else(|| {
            let expected = "sha256: and 64, or sha512: and 128 lower-case hexadecimal digits";
            Error::invalid("digest", format!("{text:?} is not {expected}"))
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
    use super::{Algorithm, Digest};

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), known);
        assert_eq!(known.parse::<Digest>().unwrap(), Digest::of(b""));
        let long = Algorithm::Sha512.digest(b"abc");
        assert!(long.as_str().starts_with("sha512:ddaf35a193617aba") && long.hex().len() == 128, "{long}");
        assert_eq!((long.to_string().parse().ok(), Digest::from_hex(long.hex())), (Some(long.clone()), Some(long)));
    }

    #[test]
    fn what_is_not_a_digest_is_refused_with_its_text() {
        for text in [
            "",
            "sha256:",
            "sha256:../../etc",
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha512:{}", "a".repeat(64)),
            &format!("sha256:{}", "a".repeat(128)),
            &format!("sha384:{}", "a".repeat(96)),
            &format!("md5:{}", "a".repeat(32)),
        ] {
            let error = text.parse::<Digest>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
