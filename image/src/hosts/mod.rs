//! The hosts of a registry: its mirrors and the registry itself, configured as in containerd by `HOST/hosts.toml` or
//! `_default/hosts.toml`. Read for every pull: a change needs no restart.

mod parse;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

pub use parse::{Parsed, parse};

use crate::locks::hold;
use crate::registry::warn_of_proxies;
use crate::{Credentials, Error, Reference, docker};

/// Bytes of a hosts.toml or a certificate file; usual ones have a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a host may take to accept a connection, unless its `dial_timeout` says otherwise. containerd waits 30 s; three lost
/// packets take TCP 7 s (RFC 6298).
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Unknown keys that are remembered as told.
const TOLD_MAX: usize = 1024;

/// One host of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and path prefix: `https://registry-1.docker.io/v2`.
    pub base: Url,
    /// It may resolve tags.
    pub resolve: bool,
    /// It may serve content.
    pub pull: bool,
    /// Its certificate is not verified.
    pub skip_verify: bool,
    /// Files of certificate authorities to trust in addition to the system's.
    pub ca: Vec<PathBuf>,
    /// Certificate and key files to present; one file may hold both.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Headers of each request to it.
    pub headers: HeaderMap,
    /// How long it may take to accept a connection.
    pub dial_timeout: Duration,
    /// It is the registry itself, at the address in hosts.toml: only then it gets credentials that name no host.
    pub own: bool,
    /// The registry that it mirrors: sent as `ns`, as by containerd.
    pub mirror_of: Option<String>,
}

impl Endpoint {
    /// Host, and port if it has one.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.base)
    }
}

/// Host, and port if the address has one.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The configuration directory.
#[derive(Debug)]
pub(crate) struct Hosts {
    directory: Option<PathBuf>,
    /// The unknown keys that the log has.
    told: Mutex<HashSet<String>>,
}

impl Hosts {
    /// The configuration in a directory. Warns of proxies in the environment that cannot be used: they are part of it.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        warn_of_proxies();
        Self { directory, told: Mutex::default() }
    }

    /// The hosts of a registry in the order in which to try them; the registry itself is the last.
    pub(crate) fn of(&self, domain: &str) -> Result<Vec<Endpoint>, Error> {
        let places = self.directory.iter().flat_map(|directory| names(domain).map(|name| directory.join(name)));
        for place in places {
            let file = place.join("hosts.toml");
            if let Some(text) = read(&file)? {
                return self.parse(&text, domain, &file);
            }
            let certificates = Certificates::of(&place)?;
            if !certificates.is_empty() {
                // With certificates, it speaks TLS on loopback too.
                let own = if domain == parse::HUB { String::new() } else { format!("server = \"https://{domain}\"") };
                let Parsed { endpoints, .. } = parse(&own, domain, &place)?;
                return Ok(endpoints.into_iter().map(|endpoint| certificates.apply(endpoint)).collect());
            }
        }
        Ok(parse("", domain, Path::new("/"))?.endpoints)
    }

    /// The credentials for pulls that bring none: those in `config.json`, in docker's form.
    pub(crate) fn credentials(&self, reference: &Reference) -> Result<Option<Credentials>, Error> {
        let Some(file) = self.directory.as_ref().map(|directory| directory.join("config.json")) else {
            return Ok(None);
        };
        let Some(text) = read(&file)? else { return Ok(None) };
        docker::find(text.as_bytes(), reference).map_err(|reason| Error::invalid(file.display().to_string(), reason))
    }

    /// Parses a file, and warns once of each key that is not known.
    fn parse(&self, text: &str, domain: &str, file: &Path) -> Result<Vec<Endpoint>, Error> {
        let parsed = parse(text, domain, file.parent().unwrap_or(Path::new("/"))).map_err(|error| match error {
            Error::Invalid { what, reason } => Error::invalid(file.display().to_string(), format!("{what}: {reason}")),
            other => other,
        })?;
        for key in parsed.unknown {
            let mut told = hold(&self.told);
            if told.len() < TOLD_MAX && told.insert(format!("{}: {key}", file.display())) {
                tracing::warn!("{}: the key {key} is not known and has no effect", file.display());
            }
        }
        Ok(parsed.endpoints)
    }
}

/// The certificates in the directory of a registry without a hosts.toml, as Docker has them and containerd takes them: `*.crt` are
/// authorities, `*.cert` with `*.key` of the same name client certificates.
#[derive(Debug, Default)]
struct Certificates {
    ca: Vec<PathBuf>,
    client: Vec<(PathBuf, Option<PathBuf>)>,
}

impl Certificates {
    fn of(directory: &Path) -> Result<Self, Error> {
        let failed = || format!("cannot list {}", directory.display());
        let entries = match fs::read_dir(directory) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            entries => entries.map_err(Error::io(failed()))?,
        };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(Error::io(failed()))?;
        paths.sort();
        let ending = |wanted: &str| {
            let has = move |path: &&PathBuf| path.extension().is_some_and(|extension| extension == wanted);
            paths.iter().filter(has).cloned().collect::<Vec<_>>()
        };
        let with_key = |path: PathBuf| {
            let key = path.with_extension("key");
            let found = paths.contains(&key);
            (path, found.then_some(key))
        };
        Ok(Self { ca: ending("crt"), client: ending("cert").into_iter().map(with_key).collect() })
    }

    fn is_empty(&self) -> bool {
        self.ca.is_empty() && self.client.is_empty()
    }

    fn apply(&self, endpoint: Endpoint) -> Endpoint {
        Endpoint { ca: self.ca.clone(), client: self.client.clone(), ..endpoint }
    }
}

/// The directories of a registry, with containerd's names.
fn names(domain: &str) -> impl Iterator<Item = String> {
    let escaped =
        domain.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(host, port)| format!("{host}_{port}_"));
    escaped.into_iter().chain([domain.to_owned(), "_default".to_owned()])
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(format!("cannot read {}", path.display()))(error)),
    };
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid(path.display().to_string(), "not UTF-8"))?;
    Ok(Some(text))
}

/// Reads a file of the configuration, up to a limit.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::Hosts;

    fn bases(hosts: &Hosts, domain: &str) -> Vec<String> {
        hosts.of(domain).unwrap().into_iter().map(|endpoint| endpoint.base.to_string()).collect()
    }

    #[test]
    fn without_configuration_a_registry_is_asked_itself() {
        let hosts = Hosts::new(None);
        for (domain, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("registry.k8s.io", "https://registry.k8s.io/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost:443", "https://localhost/v2"),
            ("localhost.example.org", "https://localhost.example.org/v2"),
        ] {
            assert_eq!(bases(&hosts, domain), [base]);
        }
    }

    #[test]
    fn a_registry_has_its_own_file_or_the_default_one() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("hosts.toml"), text).unwrap();
        };
        write("a.example", "[host.\"http://one\"]");
        write("b.example_5000_", "[host.\"http://two\"]");
        write("c.example:5000", "[host.\"http://three\"]");
        write("_default", "[host.\"http://four\"]");
        write("broken", "server = 1");
        write("unknown", "servr = 1\n[host.\"http://five\"]\nx = {}");
        let hosts = Hosts::new(Some(directory.path().to_owned()));
        assert_eq!(bases(&hosts, "a.example"), ["http://one/v2", "https://a.example/v2"]);
        assert_eq!(bases(&hosts, "b.example:5000"), ["http://two/v2", "https://b.example:5000/v2"]);
        assert_eq!(bases(&hosts, "c.example:5000"), ["http://three/v2", "https://c.example:5000/v2"]);
        assert_eq!(bases(&hosts, "d.example"), ["http://four/v2", "https://d.example/v2"]);
        let error = hosts.of("broken").unwrap_err().to_string();
        assert!(error.contains("broken/hosts.toml") && error.contains("server"), "{error}");
        assert_eq!(bases(&hosts, "unknown"), ["http://five/v2", "https://unknown/v2"], "it is only warned of");
    }

    #[test]
    fn certificates_without_a_file_are_taken_as_docker_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let of = |name: &str| directory.path().join("a.example:5000").join(name);
        std::fs::create_dir_all(of("")).unwrap();
        std::fs::create_dir_all(directory.path().join("_default")).unwrap();
        std::fs::write(directory.path().join("_default/hosts.toml"), "[host.\"http://mirror\"]").unwrap();
        let hosts = Hosts::new(Some(directory.path().to_owned()));
        assert_eq!(hosts.of("a.example:5000").unwrap().len(), 2, "an empty directory says nothing");
        for name in ["ca.crt", "own.crt", "b.cert", "b.key", "a.cert", "left.key", "notes.txt"] {
            std::fs::write(of(name), "").unwrap();
        }
        let endpoints = hosts.of("a.example:5000").unwrap();
        assert_eq!((endpoints.len(), endpoints[0].base.as_str()), (1, "https://a.example:5000/v2"));
        assert_eq!(endpoints[0].ca, [of("ca.crt"), of("own.crt")]);
        assert_eq!(endpoints[0].client, [(of("a.cert"), None), (of("b.cert"), Some(of("b.key")))]);
    }
}
