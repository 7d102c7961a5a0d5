//! Credentials for a registry. They are never printed: Debug names the fields that are set, and secrets are redacted from errors
//! before they leave the crate.

use std::fmt;

/// Shorter secrets are not redacted: ordinary words would match.
const SECRET_LENGTH_MIN: usize = 4;

/// Credentials for one pull, as in CRI's AuthConfig (`auth` is decoded into the first two); empty fields are unset.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// A refresh token, exchanged for an access token (OAuth2).
    pub identity_token: String,
    /// A bearer token, sent unchanged.
    pub registry_token: String,
    /// The registry or mirror that gets them; unset: the image's registry, and none of its mirrors.
    pub server_address: String,
}

impl Credentials {
    /// Redacts these secrets in a text: a registry may echo a request.
    pub(crate) fn redact(&self, text: &str) -> String {
        let basic = crate::registry::basic_value(&self.username, &self.password);
        let secrets = [&self.password, &self.identity_token, &self.registry_token, &basic];
        secrets
            .into_iter()
            .filter(|secret| secret.len() >= SECRET_LENGTH_MIN)
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[hidden]"))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |value: &str| if value.is_empty() { "unset" } else { "[hidden]" };
        f.debug_struct("Credentials")
            .field("username", &set(&self.username))
            .field("password", &set(&self.password))
            .field("identity_token", &set(&self.identity_token))
            .field("registry_token", &set(&self.registry_token))
            .field("server_address", &self.server_address)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Credentials;

    fn credentials() -> Credentials {
        Credentials {
            username: "user-x".to_owned(),
            password: "pass-x".to_owned(),
            identity_token: "identity-x".to_owned(),
            registry_token: "registry-x".to_owned(),
            server_address: "example.org".to_owned(),
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let text = format!("{:?}", credentials());
        assert!(!text.contains("-x"), "{text}");
        assert!(text.contains("example.org"), "{text}");
    }

    #[test]
    fn a_text_that_repeats_a_secret_is_washed() {
        let text = credentials().redact("no pass-x, identity-x, registry-x, dXNlci14OnBhc3MteA== here");
        assert_eq!(text, "no [hidden], [hidden], [hidden], [hidden] here");
    }
}
