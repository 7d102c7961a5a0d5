//! The configuration: a TOML file, with a default for every key and an error for every key that is not known. `cellblock
//! config` prints the one in force with a comment for each key, in a form that can be read again.

mod keys;
mod zfs;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use host::Prefix;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use keys::KEYS;

/// The directory of the configuration on Linux, which was FreeBSD's too.
const OLD_ETC: &str = "/etc/cellblock";

/// The root of Linux, which was FreeBSD's too.
const OLD_ROOT: &str = "/var/lib/cellblock";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, a key is not known, or a value is not of its type.
    #[error("configuration {}: {source}", path.display())]
    Parse {
        path: PathBuf,
        /// The fault, with its line and the name of the key.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("configuration: {key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value and its fault.
        reason: String,
    },
}

/// Which file system keeps layers and roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootfsKind {
    /// zfs where `zfs_dataset` is set; else overlay on Linux and copy on FreeBSD.
    Auto,
    /// A dataset for each layer chain, a clone for each container.
    Zfs,
    /// Copies, on any file system.
    Copy,
    /// overlayfs (Linux).
    Overlay,
}

/// The treatment of a mount whose host path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingHostPath {
    /// A directory is made there.
    Create,
    /// The container is refused.
    Refuse,
}

/// What may come to a pod that it did not ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallPolicy {
    /// Everything.
    Open,
    /// Connections to the ports that its containers declare.
    Ports,
    /// Nothing.
    Isolated,
}

/// The configuration of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Records and images.
    pub root: PathBuf,
    /// Sockets, and the specs of running pods and containers; lost at a reboot.
    pub state: PathBuf,
    /// The CRI socket, as `unix://PATH`.
    pub address: String,
    /// What every kernel name starts with.
    pub prefix: Prefix,
    /// How much is logged.
    pub log_level: String,
    /// Spares: how many pods are made ahead, and for how many images a root.
    pub spares: u32,
    /// The names that RunPodSandbox may give as its runtime handler besides the empty one.
    pub runtime_handlers: Vec<String>,
    /// The treatment of a mount whose host path is missing.
    pub missing_host_path: MissingHostPath,
    /// The jail parameters that pods may ask for by annotation.
    pub jail_parameters: Vec<String>,
    /// Images.
    pub image: ImageConfig,
    /// The pods' network.
    pub network: NetworkConfig,
    /// exec, attach, port-forward.
    pub streaming: StreamingConfig,
}

/// Images and root file systems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// The directory of registry hosts, in containerd's form.
    pub registry_config: PathBuf,
    /// How long a registry may say nothing, in seconds.
    pub registry_timeout_seconds: u64,
    /// The file system of layers and roots.
    pub rootfs: RootfsKind,
    /// The dataset below which everything is kept.
    pub zfs_dataset: String,
    /// The compression of layers and roots; empty: inherited.
    pub zfs_compression: String,
    /// The record size of layers and roots; empty: inherited.
    pub zfs_recordsize: String,
    /// What a container may write into its root; empty: no limit.
    pub zfs_refquota: String,
    /// Whether images for Linux may be run on FreeBSD.
    pub allow_linux: bool,
    /// Images that garbage collection keeps.
    pub pinned: Vec<String>,
}

/// The pods' network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The networks that pods get their addresses from.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Networks that pods reach without translation.
    pub untranslated: Vec<IpNetwork>,
    /// The MTU of the pods' interfaces, in bytes.
    pub mtu: u32,
    /// The firewall of pods that do not choose one.
    pub firewall: FirewallPolicy,
    /// The interfaces of the node that pods may ask for by annotation.
    pub interfaces: Vec<String>,
    /// Where the rules are that pods may ask for by annotation for their own pf; None: nowhere.
    pub pf_directory: Option<PathBuf>,
    /// The domain of the pods' names; empty: they have none.
    pub names: String,
}

/// exec, attach, port-forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamingConfig {
    /// Where streams are served.
    pub address: SocketAddr,
    /// The server's certificate chain, in PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key: Option<PathBuf>,
    /// How long a stream may be idle, in seconds.
    pub idle_timeout_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: default_root(std::env::consts::OS).into(),
            state: "/var/run/cellblock".into(),
            address: "unix:///var/run/cellblock/cellblock.sock".to_owned(),
            prefix: Prefix::default(),
            log_level: "info".to_owned(),
            spares: 2,
            runtime_handlers: Vec::new(),
            missing_host_path: MissingHostPath::Create,
            jail_parameters: Vec::new(),
            image: ImageConfig::default(),
            network: NetworkConfig::default(),
            streaming: StreamingConfig::default(),
        }
    }
}

/// The directory of the configuration on a system: hier(7) of FreeBSD has /usr/local for what is not of the base system.
fn default_etc(system: &str) -> &'static Path {
    Path::new(if system == "freebsd" { "/usr/local/etc/cellblock" } else { OLD_ETC })
}

/// Where records and images are on a system: hier(7) of FreeBSD has /var/db for them.
fn default_root(system: &str) -> &'static str {
    if system == "freebsd" { "/var/db/cellblock" } else { OLD_ROOT }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            registry_config: default_etc(std::env::consts::OS).join("certs.d"),
            registry_timeout_seconds: 60,
            rootfs: RootfsKind::Auto,
            zfs_dataset: String::new(),
            zfs_compression: String::new(),
            zfs_recordsize: String::new(),
            zfs_refquota: String::new(),
            allow_linux: false,
            pinned: Vec::new(),
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            untranslated: Vec::new(),
            mtu: 1500,
            firewall: FirewallPolicy::Open,
            interfaces: Vec::new(),
            pf_directory: None,
            names: String::new(),
        }
    }
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_cert: None,
            tls_key: None,
            // kubelet's own default for streamingConnectionIdleTimeout.
            idle_timeout_seconds: 4 * 60 * 60,
        }
    }
}

/// The MTUs that an interface can have for IPv6 (RFC 8200) and in jumbo frames, in bytes.
const MTU: std::ops::RangeInclusive<u32> = 1280..=9216;
/// More spares than any node starts pods a second; each costs the memory of a vnet.
const MOST_SPARES: u32 = 64;

impl Config {
    /// Reads the configuration where it is unless `--config` says otherwise; a file that is not there is all defaults.
    ///
    /// # Errors
    /// [`ConfigError`]; the file is where an earlier version had it, and only there.
    pub fn read_default() -> Result<Self, ConfigError> {
        let path = default_etc(std::env::consts::OS).join("cellblock.toml");
        refuse_old_place("--config", &path, Path::exists)?;
        if path.exists() { Self::read(&path) } else { Ok(Self::default()) }
    }

    /// Reads a configuration; [`Config::check`] has still to look at it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        Ok(config)
    }

    /// Checks what types cannot. The command line may change a configuration that was read, so this comes after it.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |key, reason: String| Err(ConfigError::Value { key, reason });
        let directories =
            [("root", &self.root), ("state", &self.state), ("image.registry_config", &self.image.registry_config)];
        if let Some((key, path)) = directories.into_iter().find(|(_, path)| !path.is_absolute()) {
            return value(key, format!("{} is not an absolute path", path.display()));
        }
        if self.root == self.state {
            return value("state", format!("{} is the root directory too", self.state.display()));
        }
        self.socket()?;
        if self.spares > MOST_SPARES {
            return value("spares", format!("{} is more than {MOST_SPARES}", self.spares));
        }
        if !MTU.contains(&self.network.mtu) {
            return value(
                "network.mtu",
                format!("{} is not between {} and {}", self.network.mtu, MTU.start(), MTU.end()),
            );
        }
        check_pod_cidrs("network.pod_cidrs", &self.network.pod_cidrs)?;
        if !self.network.names.is_empty()
            && let Err(reason) = nameserver::check_domain(&self.network.names)
        {
            return value("network.names", reason);
        }
        if self.image.registry_timeout_seconds == 0 {
            return value("image.registry_timeout_seconds", "0: no registry answers in no time".to_owned());
        }
        if self.image.rootfs == RootfsKind::Zfs && self.image.zfs_dataset.is_empty() {
            return value("image.zfs_dataset", "empty, and image.rootfs is \"zfs\"".to_owned());
        }
        zfs::check(&self.image)?;
        if let Some(name) = self.jail_parameters.iter().find(|name| runtime::jail::kind(name).is_none()) {
            let known = runtime::jail::PARAMETERS.map(|(known, _)| known).join(", ");
            return value("jail_parameters", format!("{name:?} is none of {known}"));
        }
        for name in self.image.pinned.iter().filter(|name| !name.ends_with('*')) {
            if let Err(error) = image::Reference::parse(name) {
                return value("image.pinned", error.to_string());
            }
        }
        self.check_streaming()
    }

    fn check_streaming(&self) -> Result<(), ConfigError> {
        let streaming = &self.streaming;
        if streaming.tls_cert.is_some() != streaming.tls_key.is_some() {
            let reason = "tls_cert and tls_key go together".to_owned();
            return Err(ConfigError::Value { key: "streaming.tls_cert", reason });
        }
        if !streaming.address.ip().is_loopback() && streaming.tls_cert.is_none() {
            let reason = format!("{} is not on loopback: tls_cert and tls_key must be set", streaming.address);
            return Err(ConfigError::Value { key: "streaming.address", reason });
        }
        Ok(())
    }

    /// Refuses to begin anew where an earlier version's records or registries are, and none are configured.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn check_old_places(&self, has_records: impl Fn(&Path) -> bool) -> Result<(), ConfigError> {
        self.refuse_old_root(&Self::default().root, has_records)?;
        let registries = &self.image.registry_config;
        if *registries != ImageConfig::default().registry_config {
            return Ok(());
        }
        refuse_old_place("image.registry_config", registries, Path::exists)
    }

    fn refuse_old_root(&self, default: &Path, has_records: impl Fn(&Path) -> bool) -> Result<(), ConfigError> {
        let (old, new) = (Path::new(OLD_ROOT), self.root.as_path());
        if new != default || new == old || has_records(new) || !has_records(old) {
            return Ok(());
        }
        let reason = format!(
            "records of an earlier version are in {OLD_ROOT} and none in {}: set root = \"{OLD_ROOT}\", or move them",
            new.display()
        );
        Err(ConfigError::Value { key: "root", reason })
    }

    /// What a container may write into its root, in bytes, unless its pod says otherwise.
    pub(crate) fn refquota(&self) -> Option<u64> {
        bytes(&self.image.zfs_refquota, zfs::UNIT)
    }

    pub(crate) fn socket(&self) -> Result<PathBuf, ConfigError> {
        let path = self.address.strip_prefix("unix://").map(PathBuf::from);
        path.filter(|path| path.is_absolute()).ok_or_else(|| ConfigError::Value {
            key: "address",
            reason: format!("{:?} is not unix:// and an absolute path", self.address),
        })
    }

    /// The configuration as a file, with a comment for each key.
    ///
    /// # Panics
    /// Never: every value of it is text, a number or a list of these.
    #[must_use]
    pub fn commented(&self) -> String {
        let table = toml::Value::try_from(self).expect("a configuration is a table");
        let mut text = String::new();
        for (section, key, comment) in KEYS {
            if key.is_empty() {
                let _ = write!(text, "\n# {comment}\n[{section}]\n");
                continue;
            }
            let place = if section.is_empty() { Some(&table) } else { table.get(section) };
            text.extend(comment.lines().map(|line| format!("# {line}\n")));
            let _ = match place.and_then(|place| place.get(key)) {
                Some(value) => writeln!(text, "{key} = {value}"),
                None => writeln!(text, "# {key} = \"\""),
            };
        }
        text
    }
}

/// Refuses a default path below /usr/local that is missing, while what it names is where an earlier version had it.
fn refuse_old_place(key: &'static str, default: &Path, exists: impl Fn(&Path) -> bool) -> Result<(), ConfigError> {
    let old = default.strip_prefix(default_etc("freebsd")).map(|name| Path::new(OLD_ETC).join(name));
    match old {
        Ok(old) if !exists(default) && exists(&old) => {
            let reason = format!("{} is there and {} is not: move it, or name it", old.display(), default.display());
            Err(ConfigError::Value { key, reason })
        }
        _ => Ok(()),
    }
}

/// Checks pod networks: at most one of each family, large enough for a gateway and a pod.
fn check_pod_cidrs(key: &'static str, cidrs: &[IpNetwork]) -> Result<(), ConfigError> {
    for (index, cidr) in cidrs.iter().enumerate() {
        let room = if cidr.is_ipv4() { 32 } else { 128 } - cidr.prefix();
        if room < 2 {
            let reason = format!("{cidr} has no room for a gateway and a pod");
            return Err(ConfigError::Value { key, reason });
        }
        if cidrs[..index].iter().any(|other| other.is_ipv4() == cidr.is_ipv4()) {
            let reason = format!("{cidr} is the second network of its family; one IPv4 and one IPv6 can be given");
            return Err(ConfigError::Value { key, reason });
        }
    }
    Ok(())
}

/// A number of bytes, or of 1024, 1024² or 1024³ of them with K, M or G and `unit` behind it.
pub(crate) fn bytes(text: &str, unit: &str) -> Option<u64> {
    let factors = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)];
    let scaled = |(letter, factor)| Some((text.strip_suffix(unit)?.strip_suffix(letter)?, factor));
    let (number, factor) = factors.into_iter().find_map(scaled).unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests;
