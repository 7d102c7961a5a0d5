//! The hosts of a registry: its mirrors and the registry itself, configured as in containerd by `HOST/hosts.toml` or
//! `_default/hosts.toml`. Read for every pull: a change needs no restart.

mod parse;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderMap;

pub use parse::parse;

use crate::Error;

/// Bytes of a hosts.toml or a certificate file; usual ones have a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
    /// It is the registry itself, at the address in hosts.toml: only then it gets credentials that name no host.
    pub own: bool,
    /// The registry that it mirrors: sent as `ns`, as by containerd.
    pub mirror_of: Option<String>,
}

impl Endpoint {
    /// Host, and port if it has one.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// The configuration directory.
#[derive(Debug)]
pub(crate) struct Hosts {
    directory: Option<PathBuf>,
}

impl Hosts {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// The hosts of a registry in the order in which to try them; the registry itself is the last.
    pub(crate) fn of(&self, domain: &str) -> Result<Vec<Endpoint>, Error> {
        let places = self.directory.iter().flat_map(|directory| names(domain).map(|name| directory.join(name)));
        for place in places {
            let file = place.join("hosts.toml");
            if let Some(text) = read(&file)? {
                return parse(&text, domain, &place).map_err(|error| match error {
                    Error::Invalid { what, reason } => {
                        Error::invalid(file.display().to_string(), format!("{what}: {reason}"))
                    }
                    other => other,
                });
            }
        }
        parse("", domain, Path::new("/"))
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
        write("broken", "servr = 1");
        let hosts = Hosts::new(Some(directory.path().to_owned()));
        assert_eq!(bases(&hosts, "a.example"), ["http://one/v2", "https://a.example/v2"]);
        assert_eq!(bases(&hosts, "b.example:5000"), ["http://two/v2", "https://b.example:5000/v2"]);
        assert_eq!(bases(&hosts, "c.example:5000"), ["http://three/v2", "https://c.example:5000/v2"]);
        assert_eq!(bases(&hosts, "d.example"), ["http://four/v2", "https://d.example/v2"]);
        let error = hosts.of("broken").unwrap_err().to_string();
        assert!(error.contains("broken/hosts.toml") && error.contains("servr"), "{error}");
    }
}
