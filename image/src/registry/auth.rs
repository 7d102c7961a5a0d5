//! Authentication: the response 401 of a registry names the scheme. Basic, or Bearer with a token from a token server, which gets
//! the user name and password, a refresh token, or nothing.

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::asked::{Asked, Purpose};
use super::client::{PAGE_LENGTH, Registry, line};
use super::{Failure, basic_value};
use crate::{Error, json};

/// Bytes of a token server's response; tokens with many scopes have some thousands.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// Parameters of one challenge.
const PARAMETERS_MAX: usize = 32;
/// The client id for token servers.
const CLIENT_ID: &str = "cellblock";

/// A challenge of a registry.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    /// Makes the header for the registry's challenge.
    pub(super) async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, Failure> {
        let credentials = &self.credentials;
        if !credentials.registry_token.is_empty() {
            return header(&format!("Bearer {}", credentials.registry_token));
        }
        match challenge(headers) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                self.token(&realm, service.as_deref(), &scope).await
            }
            Some(Challenge::Basic) if !credentials.username.is_empty() => self.basic(),
            Some(Challenge::Basic) => Err(self.denied("it asks for a user name and a password").into()),
            None => Err(self.denied("it names no way to authenticate that is known").into()),
        }
    }

    fn basic(&self) -> Result<HeaderValue, Failure> {
        header(&format!("Basic {}", basic_value(&self.credentials.username, &self.credentials.password)))
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<HeaderValue, Failure> {
        let invalid = |reason: &str| {
            Error::invalid(format!("token server of registry {}", self.name()), format!("{realm:?} {reason}"))
        };
        let mut url = token_server(realm, &self.endpoint.base).map_err(invalid)?;
        let http = self.client_for(&url);
        let asked = Asked::new(Purpose::Token, &url, &self.endpoint.base);
        let service = service.map(|service| ("service", service));
        let identity = &self.credentials.identity_token;
        let request = if identity.is_empty() {
            url.query_pairs_mut().extend_pairs(service.into_iter().chain([("scope", scope)]));
            let request = http.get(url);
            if self.credentials.username.is_empty() { request } else { request.header(AUTHORIZATION, self.basic()?) }
        } else {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("scope", scope),
                ("refresh_token", identity),
            ];
            let mut encoded = Url::parse("http://form").expect("a constant address");
            encoded.query_pairs_mut().extend_pairs(form.into_iter().chain(service));
            let form = encoded.query().unwrap_or_default().to_owned();
            http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form)
        };
        let response = self.answer(request, &asked, self.timeout).await?;
        if !response.status().is_success() {
            return Err(self.refused(response, "a token", &asked).await);
        }
        let bytes = self.document(response, TOKEN_BYTES_MAX, &asked.unreached()).await?;
        let token: Token = json::from_slice(&bytes).map_err(|_| {
            // Only a page is repeated: anything else may be a token all the same.
            let page = bytes.trim_ascii_start().starts_with(b"<").then(|| line(&bytes, PAGE_LENGTH));
            let said = page.map_or_else(String::new, |page| format!(", but a page that begins {page:?}"));
            invalid(&self.credentials.redact(&format!("answers no token{said}")))
        })?;
        let token = token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| invalid("answers no token"))?;
        header(&format!("Bearer {token}"))
    }
}

/// Parses the address of a registry's token server. It may be another host (docker.io's is), but gets credentials only over
/// HTTPS if the registry uses HTTPS.
fn token_server(realm: &str, registry: &Url) -> Result<Url, &'static str> {
    let url = Url::parse(realm).map_err(|_| "is not an address")?;
    match (url.scheme(), registry.scheme()) {
        ("https", _) | ("http", "http") => Ok(url),
        ("http", _) => Err("would be asked without encryption, which the registry itself uses"),
        _ => Err("is neither an http nor an https address"),
    }
}

/// Makes a header that logs do not print.
fn header(value: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::invalid("credentials", "they have characters that no header can have"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Chooses the challenge: Bearer before Basic.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(parse).collect();
    let bearer = all.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    all.into_iter().nth(bearer.unwrap_or(0))
}

/// Parses a header: one or several schemes with their parameters (RFC 9110, 11.6.1).
fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for part in split(text) {
        let (first, rest) = part.split_once(' ').unwrap_or((part, ""));
        let parameter = if first.contains('=') {
            part
        } else {
            found.push((first.to_ascii_lowercase(), Vec::new()));
            rest.trim()
        };
        if let (Some((_, parameters)), Some((name, value))) = (found.last_mut(), parameter.split_once('=')) {
            let value = value.trim().trim_matches('"').replace("\\\"", "\"");
            if parameters.len() < PARAMETERS_MAX {
                parameters.push((name.trim().to_ascii_lowercase(), value));
            }
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| known(&scheme, &parameters)).collect()
}

fn known(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope").filter(|scope| !scope.is_empty()),
        }),
        _ => None,
    }
}

/// Splits at the commas outside of quotes.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let separator = move |c: char| {
        let was_escaped = escaped;
        escaped = c == '\\' && quoted && !was_escaped;
        if c == '"' && !was_escaped {
            quoted = !quoted;
        }
        c == ',' && !quoted
    };
    text.split(separator).map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::{Challenge, parse, token_server};

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_server_gets_credentials_over_no_worse_a_connection() {
        let table = [
            ("https://auth.docker.io/token", "https://registry-1.docker.io/v2", ""),
            ("https://auth.example/token", "http://registry.example/v2", ""),
            ("http://auth.example/token", "http://registry.example/v2", ""),
            ("http://registry.example/token", "https://registry.example/v2", "without encryption"),
            ("ftp://registry.example/token", "http://registry.example/v2", "neither"),
            ("/token", "http://registry.example/v2", "not an address"),
        ];
        for (realm, registry, reason) in table {
            let answer = token_server(realm, &Url::parse(registry).unwrap());
            assert_eq!(answer.is_ok(), reason.is_empty(), "{realm}");
            assert!(answer.err().unwrap_or_default().contains(reason), "{realm}");
        }
    }

    #[test]
    fn challenges_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let table = [
            (
                hub,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            ("Basic realm=\"x, y\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                "Negotiate, Basic realm=x, BEARER realm=\"http://h\"",
                vec![Challenge::Basic, bearer("http://h", None, None)],
            ),
            ("Bearer service=x", vec![]),
            ("Digest realm=x", vec![]),
            ("", vec![]),
            ("=,=\"", vec![]),
        ];
        for (text, challenges) in table {
            assert_eq!(parse(text), challenges, "{text}");
        }
    }
}
