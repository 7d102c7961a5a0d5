//! Parses the documents of an image (index, manifest and configuration, OCI's and Docker's schema 2) with limits: the registry
//! that they come from is not trusted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::{Digest, Error, json};

/// Bytes of an index or a manifest; registries take no larger ones.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Bytes of an image's configuration: large ones hold a long history.
pub(crate) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Layers of an image: twice what docker builds, and half of what overlayfs stacks.
pub(crate) const LAYERS_MAX: usize = 256;
/// Bytes of one downloaded layer.
pub(crate) const LAYER_BYTES_MAX: u64 = 64 << 30;
/// Entries of an index.
pub(crate) const INDEX_ENTRIES_MAX: usize = 1024;

/// The media types that a manifest may have; also the Accept header of the request.
pub(crate) const MANIFEST_TYPES: [&str; 4] = [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST];
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The media types of layers. The unpacker detects tar, gzip and zstd by itself; this list refuses anything else (an encrypted
/// layer, a chart) before it is downloaded.
pub(crate) const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/// The media types of layers that a registry need not have: their descriptors name other addresses.
const FOREIGN_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
];
/// Other addresses of one layer that are tried.
const URLS_MAX: usize = 8;

/// A descriptor of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Other addresses, of a layer that the registry need not have.
    pub urls: Vec<String>,
}

impl Blob {
    pub(crate) fn new(digest: Digest, size: u64) -> Self {
        Self { digest, size, urls: Vec::new() }
    }
}

/// An index or a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Manifests for several platforms.
    Index(Vec<(Blob, Option<Platform>)>),
    /// One image.
    Manifest {
        /// The configuration.
        config: Blob,
        /// The layers, the lowest first.
        layers: Vec<Blob>,
    },
}

/// The defaults that an image sets for its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The words before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments of a container whose spec has none.
    pub cmd: Vec<String>,
    /// The working directory; empty: `/`.
    pub working_dir: String,
    /// The signal that stops the program, by name or number.
    pub stop_signal: Option<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// The paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// `linux`, `freebsd`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
}

/// An image's configuration: the defaults for containers, the platform, and the digests of the uncompressed layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The defaults for containers.
    pub image: ImageConfig,
    /// The platform that it runs on; its parts are empty where the configuration does not say them.
    pub platform: Platform,
    /// The digest of each layer's uncompressed bytes, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Fills in what the configuration does not say of its platform.
    pub(crate) fn complete(&mut self, platform: &Platform) {
        self.platform = self.platform.or(platform);
        (self.image.os, self.image.architecture) = self.platform.names();
    }
}

/// The fields that distinguish an index from a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The media type of a parsed index or manifest, which need not say it itself.
pub(crate) fn media_type(bytes: &[u8], document: &Document) -> String {
    let said = json::from_slice::<Shape>(bytes).ok().and_then(|shape| shape.media_type);
    let usual = if matches!(document, Document::Index(_)) { INDEX } else { MANIFEST };
    said.filter(|named| !named.is_empty()).unwrap_or_else(|| usual.to_owned())
}

/// Reads an index or a manifest.
///
/// # Errors
/// [`Error::Invalid`]: not JSON, of another kind, both kinds at once (which of them is meant differs between readers:
/// CVE-2021-41190), or beyond a limit.
pub fn parse_manifest(bytes: &[u8]) -> Result<Document, Error> {
    let invalid = |reason: String| Error::invalid("manifest", reason);
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(invalid(format!("{} bytes are more than {MANIFEST_BYTES_MAX}", bytes.len())));
    }
    let shape: Shape = json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if let Some(version) = shape.schema_version.filter(|version| *version != 2) {
        return Err(invalid(format!("schema version {version} is not supported (2 is)")));
    }
    let index = shape.manifests.is_some();
    if index == (shape.layers.is_some() || shape.config.is_some()) {
        return Err(invalid("it must be either an index or an image's manifest".to_owned()));
    }
    let expected = if index { [INDEX, DOCKER_LIST] } else { [MANIFEST, DOCKER_MANIFEST] };
    if let Some(media_type) = shape.media_type.filter(|named| !named.is_empty() && !expected.contains(&named.as_str()))
    {
        return Err(invalid(format!("media type {media_type:?} is not supported or does not fit the contents")));
    }
    if index { parse_index(bytes) } else { parse_image(bytes) }
}

fn parse_index(bytes: &[u8]) -> Result<Document, Error> {
    let index: ImageIndex = json::from_slice(bytes).map_err(|error| Error::invalid("index", error.to_string()))?;
    if index.manifests().len() > INDEX_ENTRIES_MAX {
        return Err(Error::invalid(
            "index",
            format!("{} entries are more than {INDEX_ENTRIES_MAX}", index.manifests().len()),
        ));
    }
    let versions: Versions = json::from_slice(bytes).map_err(|error| Error::invalid("index", error.to_string()))?;
    let entry = |(entry, version): (&Descriptor, Versioned)| {
        // An empty or half a platform is none: that entry is the fall-back.
        let platform = entry.platform().as_ref().map(Platform::from).filter(Platform::is_whole);
        let version = version.platform.and_then(|platform| platform.os_version);
        let platform = platform.map(|platform| platform.in_version(version.as_deref()));
        Ok((blob(entry, MANIFEST_BYTES_MAX)?, platform))
    };
    let entries = index.manifests().iter().zip(versions.manifests).map(entry);
    Ok(Document::Index(entries.collect::<Result<_, Error>>()?))
}

/// The versions of the systems in an index: oci-spec (0.10.0) looks for them by the key `os_version`.
#[derive(Deserialize)]
struct Versions {
    manifests: Vec<Versioned>,
}

#[derive(Deserialize)]
struct Versioned {
    platform: Option<Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "os.version")]
    os_version: Option<String>,
}

fn parse_image(bytes: &[u8]) -> Result<Document, Error> {
    let invalid = |reason: String| Error::invalid("manifest", reason);
    let manifest: ImageManifest = json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if manifest.layers().len() > LAYERS_MAX {
        return Err(invalid(format!("{} layers are more than {LAYERS_MAX}", manifest.layers().len())));
    }
    let layer = |layer: &Descriptor| {
        let media_type = layer.media_type().to_string();
        let foreign = FOREIGN_TYPES.contains(&media_type.as_str());
        if !foreign && !LAYER_TYPES.contains(&media_type.as_str()) {
            return Err(invalid(format!(
                "layer {} has media type {media_type:?}, which is not supported",
                layer.digest()
            )));
        }
        let urls = layer.urls().iter().flatten().filter(|_| foreign).take(URLS_MAX).cloned().collect();
        Ok(Blob { urls, ..blob(layer, LAYER_BYTES_MAX)? })
    };
    let layers = manifest.layers().iter().map(layer).collect::<Result<_, Error>>()?;
    Ok(Document::Manifest { config: blob(manifest.config(), CONFIG_BYTES_MAX)?, layers })
}

/// A descriptor's digest and size.
fn blob(descriptor: &Descriptor, limit: u64) -> Result<Blob, Error> {
    let digest: Digest = descriptor.digest().to_string().parse()?;
    if descriptor.size() > limit {
        return Err(Error::invalid(
            format!("blob {digest}"),
            format!("its size {} is more than {limit} bytes", descriptor.size()),
        ));
    }
    Ok(Blob::new(digest, descriptor.size()))
}

/// The field that tells an image's configuration from an artifact's.
#[derive(Deserialize)]
struct ConfigShape {
    rootfs: Option<serde::de::IgnoredAny>,
}

/// The whole configuration, with its history.
pub(crate) fn configuration(bytes: &[u8]) -> Result<ImageConfiguration, serde_json::Error> {
    json::from_slice(bytes)
}

/// Reads an image's configuration.
///
/// # Errors
/// [`Error::Invalid`]: not JSON, or not an image's (an artifact's), or beyond a limit.
pub fn parse_config(bytes: &[u8]) -> Result<Config, Error> {
    let invalid = |reason: String| Error::invalid("image configuration", reason);
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(invalid(format!("{} bytes are more than {CONFIG_BYTES_MAX}", bytes.len())));
    }
    let whole = configuration(bytes).map_err(|error| invalid(error.to_string()))?;
    let shape: ConfigShape = json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if shape.rootfs.is_none() {
        return Err(invalid("it has no rootfs: it belongs to an artifact, not to an image".to_owned()));
    }
    let diff_ids: Vec<Digest> = whole.rootfs().diff_ids().iter().map(|id| id.parse()).collect::<Result<_, Error>>()?;
    let platform =
        Platform::new(&whole.os().to_string(), &whole.architecture().to_string(), whole.variant().as_deref());
    let platform = platform.in_version(whole.os_version().as_deref());
    let config = whole.config().clone().unwrap_or_default();
    let volumes: BTreeSet<String> = config.volumes().clone().unwrap_or_default().into_iter().collect();
    let image = ImageConfig {
        user: config.user().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
        labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        volumes: volumes.into_iter().collect(),
        os: whole.os().to_string(),
        architecture: whole.architecture().to_string(),
    };
    Ok(Config { image, platform, diff_ids })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Document, LAYERS_MAX, parse_config, parse_manifest};
    use crate::Digest;

    fn descriptor(media_type: &str, text: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(text.as_bytes()).as_str(), "size": text.len()})
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", "config"),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "layer")],
        })
    }

    fn with(mut document: Value, field: &str, value: Value) -> Vec<u8> {
        document[field] = value;
        serde_json::to_vec(&document).unwrap()
    }

    #[test]
    fn manifests_of_both_kinds_are_read() {
        for media_type in
            ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"]
        {
            let Document::Manifest { config, layers } =
                parse_manifest(&with(manifest(), "mediaType", json!(media_type))).unwrap()
            else {
                panic!("not a manifest");
            };
            assert_eq!((config.digest, config.size), (Digest::of(b"config"), 6));
            assert_eq!(layers[0].digest, Digest::of(b"layer"));
        }
    }

    #[test]
    fn an_index_is_read_with_its_platforms() {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", "m");
        entry["platform"] = json!({"os": "freebsd", "architecture": "amd64", "os.version": "14.2"});
        let bare = descriptor("application/vnd.oci.image.manifest.v1+json", "n");
        let bytes = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry, bare]})).unwrap();
        let Document::Index(entries) = parse_manifest(&bytes).unwrap() else { panic!("not an index") };
        assert_eq!(entries[0].1.as_ref().unwrap().to_string(), "freebsd(14.2)/amd64");
        assert_eq!(entries[1].1, None);
    }

    #[test]
    fn what_is_null_or_missing_is_empty() {
        let read = |bytes: &[u8]| match parse_manifest(bytes).unwrap() {
            Document::Manifest { layers, .. } => layers.len(),
            Document::Index(entries) => entries.len(),
        };
        for field in ["schemaVersion", "mediaType", "annotations"] {
            assert_eq!(read(&with(manifest(), field, Value::Null)), 1, "{field}");
        }
        assert_eq!(read(&with(manifest(), "layers", Value::Null)), 0);
        let mut layer = descriptor("application/vnd.oci.image.layer.v1.tar", "l");
        for field in ["urls", "annotations", "platform"] {
            layer[field] = Value::Null;
        }
        assert_eq!(read(&with(manifest(), "layers", json!([layer]))), 1);
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", "m");
        for platform in [json!({}), Value::Null, json!({"os": "", "architecture": ""}), json!({"os": "linux"})] {
            entry["platform"] = platform;
            let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
            let Document::Index(entries) = parse_manifest(index.as_bytes()).unwrap() else { panic!("not an index") };
            assert_eq!(entries[0].1, None);
        }
        let config =
            parse_config(br#"{"config":null,"history":null,"rootfs":{"type":"layers","diff_ids":null}}"#).unwrap();
        assert!(config.diff_ids.is_empty() && config.image.cmd.is_empty());
        assert!(!config.platform.is_whole());
    }

    #[test]
    fn layers_that_a_registry_need_not_have_keep_their_addresses() {
        let urls = json!(vec!["https://example.org/layer"; super::URLS_MAX + 1]);
        for (media_type, kept) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", super::URLS_MAX),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", super::URLS_MAX),
            ("application/vnd.oci.image.layer.v1.tar+gzip", 0),
        ] {
            let mut layer = descriptor(media_type, "l");
            layer["urls"] = urls.clone();
            let bytes = with(manifest(), "layers", json!([layer, descriptor(media_type, "m")]));
            let Document::Manifest { layers, .. } = parse_manifest(&bytes).unwrap() else { panic!("not a manifest") };
            assert_eq!((layers[0].urls.len(), layers[1].urls.len()), (kept, 0), "{media_type}");
        }
    }

    #[test]
    fn hostile_documents_are_refused_with_the_reason() {
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", "l");
        let mut huge = layer.clone();
        huge["size"] = json!(u64::MAX);
        let mut escaping = layer.clone();
        escaping["digest"] = json!("sha256:../../../etc/passwd");
        let mut negative = layer.clone();
        negative["size"] = json!(-1);
        let table = [
            (b"{".to_vec(), "manifest: "),
            (b"[]".to_vec(), "manifest: "),
            (vec![b' '; 5 << 20], "bytes are more than"),
            ("[".repeat(100_000).into_bytes(), "manifest: "),
            (with(manifest(), "schemaVersion", json!(1)), "schema version 1"),
            (with(manifest(), "manifests", json!([])), "either an index or"),
            (with(manifest(), "mediaType", json!("application/vnd.oci.image.index.v1+json")), "does not fit"),
            (with(manifest(), "mediaType", json!("text/html")), "text/html"),
            (with(manifest(), "layers", json!(vec![layer.clone(); LAYERS_MAX + 1])), "layers are more than"),
            (with(manifest(), "layers", json!([huge])), "is more than"),
            (with(manifest(), "layers", json!([escaping])), "/etc/passwd"),
            (with(manifest(), "layers", json!([{}])), "layers: digest"),
            (with(manifest(), "layers", json!([negative])), "size"),
            (
                with(
                    manifest(),
                    "layers",
                    json!([descriptor("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "l")]),
                ),
                "encrypted",
            ),
        ];
        for (bytes, reason) in table {
            let error = parse_manifest(&bytes).unwrap_err();
            assert!(error.to_string().contains(reason), "{error} lacks {reason}");
        }
    }

    #[test]
    fn a_configuration_with_nulls_as_docker_writes_it_is_read() {
        let bytes = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "docker_version": "20",
            "config": {"User": "65535", "Env": null, "Entrypoint": ["/pause"], "Cmd": null, "WorkingDir": "/", "Labels": null,
                "Volumes": {"/data": {}}, "StopSignal": "SIGTERM", "OnBuild": null, "Image": "sha256:…"},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x").as_str()]},
        }))
        .unwrap();
        let config = parse_config(&bytes).unwrap();
        assert_eq!(
            (config.image.user.as_str(), config.image.volumes.as_slice()),
            ("65535", ["/data".to_owned()].as_slice())
        );
        assert_eq!(config.image.stop_signal.as_deref(), Some("SIGTERM"));
        assert_eq!(config.diff_ids, [Digest::of(b"x")]);
        assert_eq!(config.platform.to_string(), "linux/amd64");
    }

    #[test]
    fn keys_are_read_whatever_their_case() {
        // FreeBSD's own images write keys like these.
        let config = parse_config(
            &serde_json::to_vec(&json!({
                "architecture": "amd64", "os": "freebsd", "config": {"cmd": ["/bin/sh"], "env": ["A=b"], "workingdir": "/root"},
                "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x").as_str()]},
            }))
            .unwrap(),
        )
        .unwrap()
        .image;
        assert_eq!(
            (config.cmd[0].as_str(), config.env[0].as_str(), config.working_dir.as_str()),
            ("/bin/sh", "A=b", "/root")
        );
        let upper = |document: &Value| {
            let text = document.to_string();
            [
                "schemaVersion",
                "mediaType",
                "config",
                "layers",
                "manifests",
                "digest",
                "size",
                "platform",
                "architecture",
            ]
            .iter()
            .fold(text, |text, key| text.replace(&format!("{key:?}:"), &format!("{:?}:", key.to_uppercase())))
        };
        let Document::Manifest { layers, .. } = parse_manifest(upper(&manifest()).as_bytes()).unwrap() else {
            panic!("not a manifest");
        };
        assert_eq!(layers[0].digest, Digest::of(b"layer"));
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", "m");
        entry["platform"] = json!({"os": "freebsd", "architecture": "amd64"});
        let index = upper(&json!({"schemaVersion": 2, "manifests": [entry]}));
        let Document::Index(entries) = parse_manifest(index.as_bytes()).unwrap() else { panic!("not an index") };
        assert_eq!(entries[0].1.as_ref().unwrap().to_string(), "freebsd/amd64");
        // The check for both kinds at once ignores case as well.
        assert!(parse_manifest(&with(manifest(), "Manifests", json!([]))).is_err());
    }

    #[test]
    fn an_artifact_is_not_an_image() {
        assert!(parse_config(b"{}").is_err());
        assert!(
            parse_config(
                br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:.."]}}"#
            )
            .is_err()
        );
    }
}
