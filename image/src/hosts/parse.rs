//! Parses hosts.toml in the form that containerd documents. An unknown key is an error, so that a misspelt key cannot disable a
//! mirror or its verification unnoticed. Pure.

use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Endpoint;
use crate::Error;

/// Mirrors of one registry: each may cost a time-out in every pull.
const MIRRORS_MAX: usize = 32;
/// The key of the registry itself.
const SERVER: &str = "server";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: Option<toml::Table>,
    override_path: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: Option<toml::Table>,
    override_path: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    Pairs(Vec<Vec<String>>),
    Files(OneOrMany),
}

/// Parses a hosts.toml: the mirrors in their order, then the registry itself. `domain` is the registry; relative file names are
/// below `directory`.
///
/// # Errors
/// [`Error::Invalid`] with the key and its value.
pub fn parse(text: &str, domain: &str, directory: &Path) -> Result<Vec<Endpoint>, Error> {
    let file: File = read(
        "hosts.toml",
        toml::from_str::<toml::Table>(text).map_err(|error| Error::invalid("not TOML", error.to_string()))?,
    )?;
    if file.host.len() > MIRRORS_MAX {
        return Err(Error::invalid("host", format!("{} hosts are more than {MIRRORS_MAX}", file.host.len())));
    }
    let mut endpoints = Vec::with_capacity(file.host.len() + 1);
    for (name, value) in file.host {
        let key = format!("host.{name:?}");
        let toml::Value::Table(table) = value else { return Err(Error::invalid(key, "not a table")) };
        let host: Host = read(&key, table)?;
        endpoints.push(endpoint(&key, &name, host, &Place { domain, directory })?);
    }
    let server = file.server.unwrap_or_else(|| default_server(domain));
    let host = Host {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
    };
    endpoints.push(endpoint(SERVER, &server, host, &Place { domain, directory })?);
    Ok(endpoints)
}

fn read<T: DeserializeOwned>(what: &str, table: toml::Table) -> Result<T, Error> {
    table.try_into().map_err(|error: toml::de::Error| Error::invalid(what, error.message().to_owned()))
}

/// The registry and the directory of the file.
struct Place<'a> {
    domain: &'a str,
    directory: &'a Path,
}

fn endpoint(key: &str, address: &str, host: Host, place: &Place<'_>) -> Result<Endpoint, Error> {
    let base = base(key, address, host.override_path.unwrap_or(false))?;
    let (resolve, pull) = capabilities(key, host.capabilities)?;
    let absolute = |name: String| place.directory.join(name);
    let endpoint = Endpoint {
        base,
        resolve,
        pull,
        skip_verify: host.skip_verify.unwrap_or(false),
        ca: host.ca.map(OneOrMany::list).unwrap_or_default().into_iter().map(absolute).collect(),
        client: clients(key, host.client, place.directory)?,
        headers: headers(key, host.header.unwrap_or_default())?,
        own: false,
        mirror_of: None,
    };
    let own = default_server(place.domain);
    let own = base_authority(&own);
    let mirror_of = (own.as_deref() != Some(endpoint.authority().as_str())).then(|| place.domain.to_owned());
    Ok(Endpoint { own: key == SERVER || mirror_of.is_none(), mirror_of, ..endpoint })
}

fn base_authority(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// The address with the API's path: `/v2` is appended unless it is there or `override_path` is set.
fn base(key: &str, address: &str, whole: bool) -> Result<Url, Error> {
    let refuse = |reason: &str| Error::invalid(key, format!("{address:?} {reason}"));
    let address_with_scheme = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let mut url = Url::parse(&address_with_scheme).map_err(|error| refuse(&format!("is no address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("is not an address that starts with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("may have a host, a port and a path only"));
    }
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !whole && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    url.set_path(&path);
    Ok(url)
}

/// The capabilities of a host: (resolve, pull). Default: both.
fn capabilities(key: &str, list: Option<Vec<String>>) -> Result<(bool, bool), Error> {
    let Some(list) = list else { return Ok((true, true)) };
    if let Some(unknown) = list.iter().find(|name| !matches!(name.as_str(), "pull" | "resolve" | "push" | "referrers"))
    {
        return Err(Error::invalid(
            format!("{key}.capabilities"),
            format!("{unknown:?} is none of pull, resolve, push, referrers"),
        ));
    }
    let has = |name: &str| list.iter().any(|other| other == name);
    Ok((has("resolve"), has("pull")))
}

fn clients(key: &str, clients: Option<Clients>, directory: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, Error> {
    let absolute = |name: &String| directory.join(name);
    match clients {
        None => Ok(Vec::new()),
        Some(Clients::Files(files)) => Ok(files.list().iter().map(|file| (absolute(file), None)).collect()),
        Some(Clients::Pairs(pairs)) => pairs
            .iter()
            .map(|pair| match pair.as_slice() {
                [file] => Ok((absolute(file), None)),
                [certificate, private] => Ok((absolute(certificate), Some(absolute(private)))),
                _ => Err(Error::invalid(format!("{key}.client"), format!("{pair:?} is not a certificate and a key"))),
            })
            .collect(),
    }
}

fn headers(key: &str, table: toml::Table) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let refuse = |reason: &str| Error::invalid(format!("{key}.header.{name}"), reason);
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("not a header's name"))?;
        let values: OneOrMany = value.try_into().map_err(|_| refuse("neither a string nor a list of strings"))?;
        for value in values.list() {
            // The value may be a secret: the error omits it.
            let mut value = HeaderValue::from_str(&value).map_err(|_| refuse("not a header's value"))?;
            value.set_sensitive(true);
            headers.append(header.clone(), value);
        }
    }
    Ok(headers)
}

/// The registry's own address. Registries on this machine use plain HTTP unless the port is 443, as in containerd.
fn default_server(domain: &str) -> String {
    if domain == "docker.io" {
        return "https://registry-1.docker.io".to_owned();
    }
    let host = domain.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let host = host.unwrap_or_else(|| domain.split(':').next().unwrap_or_default());
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let scheme = if loopback && !domain.ends_with(":443") { "http" } else { "https" };
    format!("{scheme}://{domain}")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::parse;

    const WHOLE: &str = r#"
        server = "https://registry.k8s.io"
        capabilities = ["pull"]

        [host."http://zz.example:5000"]
          capabilities = ["pull", "resolve"]
        [host."https://aa.example/proxy"]
          ca = "ca.pem"
          skip_verify = true
          client = [["/c.pem", "/k.pem"], ["both.pem"]]
          [host."https://aa.example/proxy".header]
            x-team = ["one", "two"]
            authorization = "Basic abc"
        [host."mm.example"]
          override_path = true
          client = "both.pem"
          ca = ["/a.pem", "b.pem"]
    "#;

    #[test]
    fn mirrors_keep_their_order_and_everything_said_of_them() {
        let endpoints = parse(WHOLE, "registry.k8s.io", Path::new("/certs")).unwrap();
        let bases: Vec<_> = endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "http://zz.example:5000/v2",
                "https://aa.example/proxy/v2",
                "https://mm.example/",
                "https://registry.k8s.io/v2"
            ]
        );
        assert!(endpoints[0].resolve && endpoints[0].pull && !endpoints[0].skip_verify);
        assert!(endpoints[1].skip_verify);
        assert_eq!(endpoints[1].ca, [PathBuf::from("/certs/ca.pem")]);
        assert_eq!(endpoints[1].client[0], ("/c.pem".into(), Some("/k.pem".into())));
        assert_eq!(endpoints[1].headers.get_all("x-team").iter().count(), 2);
        assert!(!format!("{:?}", endpoints[1]).contains("Basic"), "headers may be secret");
        assert_eq!(endpoints[2].client, [("/certs/both.pem".into(), None)]);
        assert_eq!(endpoints[2].ca.len(), 2);
        assert!(endpoints[3].pull && !endpoints[3].resolve);
        assert_eq!(endpoints.iter().map(|endpoint| endpoint.own).collect::<Vec<_>>(), [false, false, false, true]);
        let namespaces: Vec<_> = endpoints.iter().map(|endpoint| endpoint.mirror_of.as_deref()).collect();
        assert_eq!(namespaces, [Some("registry.k8s.io"), Some("registry.k8s.io"), Some("registry.k8s.io"), None]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("servr = 'x'", "servr"),
            ("[host.'http://a']\nskipverify = true", "skipverify"),
            ("[host.'http://a']\ncapabilities = ['pul']", "\"pul\""),
            ("[host.'ftp://a']", "ftp://a"),
            ("[host.'http://u:p@a']", "host, a port and a path only"),
            ("server = ''", "server"),
            ("[host.'http://a'.header]\n'b c' = 'x'", "b c"),
            ("[host.'http://a'.header]\nb = 1", "header.b"),
            ("[host]\na = 1", "host.\"a\""),
            ("[host.'http://a']\nclient = [['a','b','c']]", "client"),
            ("x = ", "TOML"),
        ];
        for (text, named) in table {
            let error = parse(text, "example.org", Path::new("/")).unwrap_err().to_string();
            assert!(error.contains(named), "{error} lacks {named}");
        }
    }
}
