//! Parses hosts.toml in the form that containerd documents. Keys that are not known are reported, and not refused: a newer
//! containerd may have them. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{DIAL_TIMEOUT, Endpoint};
use crate::Error;

/// Mirrors of one registry: each may cost a time-out in every pull.
const MIRRORS_MAX: usize = 32;
/// The key of the registry itself.
const SERVER: &str = "server";
/// Docker's registry, whose address is another one.
pub(super) const HUB: &str = "docker.io";
/// The longest `dial_timeout`.
const DIAL_MAX: Duration = Duration::from_secs(180);

/// A parsed hosts.toml.
#[derive(Debug)]
pub struct Parsed {
    /// The mirrors in their order, then the registry itself.
    pub endpoints: Vec<Endpoint>,
    /// The keys that are not known.
    pub unknown: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    own: Host,
}

#[derive(Default, Deserialize)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: Option<toml::Table>,
    override_path: Option<bool>,
    dial_timeout: Option<toml::Value>,
    #[serde(flatten)]
    unknown: toml::Table,
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

/// Parses a hosts.toml. `domain` is the registry; relative file names are below `directory`.
///
/// # Errors
/// [`Error::Invalid`] with the key and its value.
pub fn parse(text: &str, domain: &str, directory: &Path) -> Result<Parsed, Error> {
    let file: File = read(
        "hosts.toml",
        toml::from_str::<toml::Table>(text).map_err(|error| Error::invalid("not TOML", error.to_string()))?,
    )?;
    if file.host.len() > MIRRORS_MAX {
        return Err(Error::invalid("host", format!("{} hosts are more than {MIRRORS_MAX}", file.host.len())));
    }
    let mut endpoints = Vec::with_capacity(file.host.len() + 1);
    let mut unknown: Vec<String> = file.own.unknown.keys().cloned().collect();
    for (name, value) in file.host {
        let key = format!("host.{name:?}");
        let toml::Value::Table(table) = value else { return Err(Error::invalid(key, "not a table")) };
        let host: Host = read(&key, table)?;
        unknown.extend(host.unknown.keys().map(|name| format!("{key}.{name}")));
        endpoints.push(endpoint(&key, &name, host, &Place { domain, directory })?);
    }
    let server = file.server.unwrap_or_else(|| default_server(domain));
    endpoints.push(endpoint(SERVER, &server, file.own, &Place { domain, directory })?);
    Ok(Parsed { endpoints, unknown })
}

fn read<T: DeserializeOwned>(what: &str, table: toml::Table) -> Result<T, Error> {
    table.clone().try_into().map_err(|error: toml::de::Error| {
        // The error does not name the key.
        let alone = |(key, value): &(String, toml::Value)| {
            toml::Table::from_iter([(key.clone(), value.clone())]).try_into::<T>().is_err()
        };
        let key = table.into_iter().find(alone).map_or_else(String::new, |(key, _)| format!(".{key}"));
        Error::invalid(format!("{what}{key}"), error.message().to_owned())
    })
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
        dial_timeout: dial_timeout(key, host.dial_timeout)?,
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

/// A time in Go's form, which containerd takes (`3s`, `1m30s`, `500ms`), or a number of seconds. 0: the default.
fn dial_timeout(key: &str, value: Option<toml::Value>) -> Result<Duration, Error> {
    let time = match &value {
        None => return Ok(DIAL_TIMEOUT),
        Some(toml::Value::Integer(seconds)) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Some(toml::Value::String(text)) => go_duration(text),
        Some(_) => None,
    };
    match time {
        Some(Duration::ZERO) => Ok(DIAL_TIMEOUT),
        Some(time) if time <= DIAL_MAX => Ok(time),
        _ => {
            let reason = format!("{value:?} is not a time as \"3s\" of at most {} s", DIAL_MAX.as_secs());
            Err(Error::invalid(format!("{key}.dial_timeout"), reason))
        }
    }
}

fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
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
    if domain == HUB {
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
        let endpoints = parse(WHOLE, "registry.k8s.io", Path::new("/certs")).unwrap().endpoints;
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
    fn unknown_keys_are_reported_and_times_read() {
        let text = "servr = 'x'\ndial_timeout = '1m1.5s'\n[host.'http://a']\nskipverify = true\ndial_timeout = '250ms'\n\
                    [host.'http://b']\ndial_timeout = 3\n[host.'http://c']\ndial_timeout = '0s'";
        let parsed = parse(text, "example.org", Path::new("/")).unwrap();
        assert_eq!(parsed.unknown, ["servr", "host.\"http://a\".skipverify"]);
        let times: Vec<_> = parsed.endpoints.iter().map(|endpoint| endpoint.dial_timeout.as_millis()).collect();
        assert_eq!(times, [250, 3000, 10_000, 61_500]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("[host.'http://a']\nskip_verify = 'x'", "skip_verify"),
            ("dial_timeout = '3'", "server.dial_timeout"),
            ("[host.'http://a']\ndial_timeout = '1h'", "dial_timeout"),
            ("[host.'http://a']\ndial_timeout = -1", "dial_timeout"),
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
