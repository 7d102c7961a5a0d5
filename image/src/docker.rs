//! Credentials in a file of docker's form (`config.json`; podman's `auth.json` has the same), for pulls that bring none: kubelet brings
//! its own, crictl and people do not. Credential helpers are programs, and are not run. Pure.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{Credentials, Reference, json};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Finds the credentials of a repository: of the longest name in the file that is its registry, or its registry and the beginning of
/// its path. The error's text has no secret.
pub(crate) fn find(file: &[u8], reference: &Reference) -> Result<Option<Credentials>, String> {
    // The parser's text may repeat a value.
    let file: File = json::from_slice(file).map_err(|_| "it is not of docker's form".to_owned())?;
    let name = format!("{}/{}", reference.domain(), reference.path());
    let fits = |key: &str| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
    let named = file.auths.into_iter().map(|(key, entry)| (normal(&key), entry));
    let Some((key, entry)) = named.filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len()) else {
        return Ok(None);
    };
    let decoded = if entry.auth.is_empty() {
        (entry.username, entry.password)
    } else {
        decode(&entry.auth).ok_or_else(|| format!("auths.{key:?}.auth is not user:password in base64"))?
    };
    let found = Credentials {
        username: decoded.0,
        password: decoded.1,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
        server_address: String::new(),
    };
    // An entry whose secrets a credential helper keeps is empty.
    Ok((found != Credentials::default()).then_some(found))
}

/// The name of a registry in a reference: without scheme, version and slash; docker's registry has several.
fn normal(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').map_or((key, ""), |(host, path)| (host, path));
    match (host, path) {
        ("index.docker.io" | "registry-1.docker.io", "") => "docker.io".to_owned(),
        ("index.docker.io" | "registry-1.docker.io", path) => format!("docker.io/{path}"),
        _ => key.to_owned(),
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::Reference;

    #[test]
    fn the_longest_name_counts_and_docker_has_several() {
        let file = br#"{"credsStore": "x", "auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"}, "ghcr.io": {"username": "u", "password": "p"},
            "ghcr.io/team": {"auth": "dGVhbTpwOnc="}, "host:5000": {"identitytoken": "refresh"}, "helped.example": {}}}"#;
        for (reference, user, password, token) in [
            ("busybox", "hub", "pw", ""),
            ("ghcr.io/other/x:1", "u", "p", ""),
            ("ghcr.io/team/x", "team", "p:w", ""),
            ("ghcr.io/teams/x", "u", "p", ""),
            ("host:5000/x", "", "", "refresh"),
        ] {
            let found = find(file, &Reference::parse(reference).unwrap()).unwrap().unwrap();
            let found = (found.username.as_str(), found.password.as_str(), found.identity_token.as_str());
            assert_eq!(found, (user, password, token), "{reference}");
        }
        for reference in ["helped.example/x", "host:6000/x", "elsewhere.example/x"] {
            assert_eq!(find(file, &Reference::parse(reference).unwrap()), Ok(None), "{reference}");
        }
        assert_eq!(find(b"{}", &Reference::parse("busybox").unwrap()), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named_without_the_secret() {
        for (file, reason) in [
            ("[\"secret\"]", "docker's form"),
            (r#"{"auths": {"docker.io": {"auth": ["secret"]}}}"#, "docker's form"),
            (r#"{"auths": {"docker.io": {"auth": "c2VjcmV0"}}}"#, "\"docker.io\".auth"),
        ] {
            let error = find(file.as_bytes(), &Reference::parse("busybox").unwrap()).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
        }
    }
}
