//! Ids of pods and containers, and the prefix that keeps two servers on one machine apart. Every kernel name is computed from
//! one prefix and one id, so the kernel itself tells what belongs to which server.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Hexadecimal digits of an id, as in containerd: 32 random bytes.
const ID_LENGTH: usize = 64;
/// Digits of an id in a kernel name: a prefix of two, twelve digits and one letter are the 15 characters that an
/// interface name may have (IFNAMSIZ less its NUL, both on FreeBSD and Linux).
pub const SHORT_LENGTH: usize = 12;
/// Characters of a prefix; see [`SHORT_LENGTH`].
const PREFIX_LENGTH: usize = 2;

/// An invalid id or prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("id {0:?} is not 64 lower-case hexadecimal digits")]
    Id(String),
    /// Not two lower-case letters.
    #[error("prefix {0:?} is not two lower-case letters")]
    Prefix(String),
}

/// Whether a text is the short form of an id.
#[must_use]
pub fn is_short(text: &str) -> bool {
    text.len() == SHORT_LENGTH && is_hexadecimal(text)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! id_type {
    ($name:ident, $what:literal) => {
        #[doc = concat!("The id of a ", $what, ": 64 lower-case hexadecimal digits.")]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random id.
            ///
            /// # Panics
            /// The operating system gives no random bytes: no name would be safe then.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0u8; ID_LENGTH / 2];
                getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
                Self(hex::encode(bytes))
            }

            /// The whole id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, for kernel names. The server gives out no two ids that share them.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..SHORT_LENGTH]
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid = text.len() == ID_LENGTH && is_hexadecimal(text);
                if valid { Ok(Self(text.to_owned())) } else { Err(IdError::Id(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
    };
}

id_type!(PodId, "pod");
id_type!(ContainerId, "container");

/// The first two letters, in lower case, of every kernel name of one server (by default `cb`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

impl Prefix {
    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("cb".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let valid = text.len() == PREFIX_LENGTH && text.bytes().all(|b| b.is_ascii_lowercase());
        if valid { Ok(Self(text.to_owned())) } else { Err(IdError::Prefix(text.to_owned())) }
    }
}

impl TryFrom<String> for Prefix {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{ContainerId, PodId, Prefix, is_short};

    #[test]
    fn a_random_id_parses_and_is_not_repeated() {
        let id = PodId::random();
        assert_eq!(id.as_str().parse::<PodId>().unwrap(), id);
        assert_ne!(id, PodId::random());
    }

    #[test]
    fn what_is_not_an_id_is_refused_with_its_text() {
        for text in ["", "abc", &"A".repeat(64), &"0".repeat(65), "../../../../etc/passwd"] {
            let error = text.parse::<ContainerId>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_short_form_is_known() {
        assert!(is_short(PodId::random().short()));
        for text in ["", "0123456789a", "0123456789abc", "0123456789aB", "0123456789ag"] {
            assert!(!is_short(text), "{text}");
        }
    }

    #[test]
    fn a_kernel_name_fits_an_interface() {
        let name = format!("{}{}a", Prefix::default(), PodId::random().short());
        assert_eq!(name.len(), 15);
        assert!("cbx".parse::<Prefix>().is_err());
        assert!("C1".parse::<Prefix>().is_err());
    }
}
