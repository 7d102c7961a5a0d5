//! What the images of an archive are called, and which document leads to each: by `index.json`, or by docker's `manifest.json`,
//! for whose images OCI manifests are written. Pure.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageIndex};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::intake::Contents;
use super::{DOCKER, INDEX, LAYOUT, NAME, REF_NAME};
use crate::document::{INDEX_ENTRIES_MAX, LAYERS_MAX, MANIFEST};
use crate::platform::{Platform, choose};
use crate::{Digest, Error, Reference, Target, json as documents};

/// The version of the OCI image layout.
const LAYOUT_VERSION: &str = "1.0.0";

/// An image of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) reference: Reference,
    /// The index or manifest that leads to it.
    pub(super) document: Digest,
    /// The manifest, if the archive has none and it was written here.
    pub(super) manifest: Option<Vec<u8>>,
}

/// A document before its names are known to be whole ones.
struct Found {
    /// A whole name.
    name: Option<String>,
    document: Digest,
    platform: Option<Platform>,
    manifest: Option<Vec<u8>>,
}

/// An entry of docker's `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// The images of an archive. `name` is for the only image of an archive, instead of its own names.
///
/// # Errors
/// [`Error::Invalid`]: there is no image, one without a name, or a description is malformed.
pub(super) fn images(contents: &Contents, name: Option<&str>, wanted: &[Platform]) -> Result<Vec<Named>, Error> {
    let found = match (&contents.layout, &contents.index, &contents.docker) {
        (Some(layout), Some(index), _) => {
            check_layout(layout)?;
            of_index(index)?
        }
        (_, _, Some(docker)) => of_docker(docker, contents)?,
        _ => {
            let reason = format!("it has neither {LAYOUT} with {INDEX} nor docker's {DOCKER}, or was cut off");
            return Err(Error::invalid("archive", reason));
        }
    };
    if found.is_empty() {
        return Err(Error::invalid("archive", "it has no image"));
    }
    match name {
        Some(name) => only(found, name, wanted).map(|image| vec![image]),
        None => own_names(found, wanted),
    }
}

/// The image that gets this name.
fn only(mut found: Vec<Found>, name: &str, wanted: &[Platform]) -> Result<Named, Error> {
    let reference = Reference::parse(name)?;
    // One image may have several names, and may be there for several platforms.
    found.sort_by(|a, b| a.document.cmp(&b.document));
    found.dedup_by(|a, b| a.document == b.document);
    if found.len() > 1 && found.iter().any(|image| image.platform.is_none()) {
        let reason = format!("{name:?} is for one image, the archive has {}", found.len());
        return Err(Error::invalid("name", reason));
    }
    pick(reference, found, wanted)
}

fn own_names(found: Vec<Found>, wanted: &[Platform]) -> Result<Vec<Named>, Error> {
    let first = found[0].document.clone();
    let mut by_name: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for image in found {
        // Beside images with names, one without is an attestation, or what another entry leads to.
        if let Some(name) = image.name.clone() {
            by_name.entry(name).or_default().push(image);
        }
    }
    if by_name.is_empty() {
        return Err(Error::invalid("archive", format!("image {first} has no name: import it with --name NAME")));
    }
    let named = |(name, found): (String, Vec<Found>)| {
        let reference = Reference::parse(&name)
            .map_err(|error| Error::invalid("archive", format!("the name of an image: {error}")))?;
        pick(reference, found, wanted)
    };
    by_name.into_iter().map(named).collect()
}

/// The document of a name: of several, the one for this node's platform.
fn pick(reference: Reference, mut found: Vec<Found>, wanted: &[Platform]) -> Result<Named, Error> {
    let offers: Vec<_> = found.iter().map(|image| image.platform.clone()).collect();
    let at = if found.len() == 1 { Some(0) } else { choose(wanted, &offers) };
    let at = at
        .or_else(|| offers.iter().position(Option::is_none))
        .ok_or_else(|| Error::invalid(format!("image {reference}"), crate::platform::mismatch(wanted, &offers)))?;
    let Found { document, manifest, .. } = found.swap_remove(at);
    match reference.target() {
        Target::Digest(digest) if *digest != document => {
            Err(Error::invalid(format!("image {reference}"), format!("the archive has {document} under this name")))
        }
        _ => Ok(Named { reference, document, manifest }),
    }
}

fn check_layout(bytes: &[u8]) -> Result<(), Error> {
    let layout: Layout = documents::from_slice(bytes).map_err(|error| Error::invalid(LAYOUT, error.to_string()))?;
    if layout.image_layout_version == LAYOUT_VERSION {
        return Ok(());
    }
    let reason = format!("version {:?} is not supported ({LAYOUT_VERSION} is)", layout.image_layout_version);
    Err(Error::invalid(LAYOUT, reason))
}

fn of_index(bytes: &[u8]) -> Result<Vec<Found>, Error> {
    let index: ImageIndex = documents::from_slice(bytes).map_err(|error| Error::invalid(INDEX, error.to_string()))?;
    check_number(INDEX, index.manifests().len())?;
    let found = |entry: &Descriptor| {
        Ok(Found {
            name: whole_name(entry),
            document: entry.digest().to_string().parse()?,
            platform: entry.platform().as_ref().map(Platform::from).filter(Platform::is_whole),
            manifest: None,
        })
    };
    index.manifests().iter().map(found).collect()
}

fn whole_name(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    let whole = |name: &&String| name.contains(['/', ':', '@']);
    annotations.get(NAME).or_else(|| annotations.get(REF_NAME).filter(whole)).filter(|name| !name.is_empty()).cloned()
}

fn of_docker(bytes: &[u8], contents: &Contents) -> Result<Vec<Found>, Error> {
    let images: Vec<DockerImage> =
        documents::from_slice(bytes).map_err(|error| Error::invalid(DOCKER, error.to_string()))?;
    check_number(DOCKER, images.len())?;
    let mut found = Vec::new();
    for image in images {
        if image.layers.len() > LAYERS_MAX {
            let reason = format!("{} layers of an image are more than {LAYERS_MAX}", image.layers.len());
            return Err(Error::invalid(DOCKER, reason));
        }
        let manifest = manifest(&image, contents)?;
        let document = Digest::of(&manifest);
        let tags = image.repo_tags.unwrap_or_default();
        let names = tags.into_iter().map(Some).collect::<Vec<_>>();
        for name in if names.is_empty() { vec![None] } else { names } {
            found.push(Found { name, document: document.clone(), platform: None, manifest: Some(manifest.clone()) });
        }
    }
    Ok(found)
}

/// The OCI manifest of an image that has none. Equal archives give equal manifests.
fn manifest(image: &DockerImage, contents: &Contents) -> Result<Vec<u8>, Error> {
    let descriptor = |media_type: &str, path: &String| {
        let blob = &contents.file(path)?.blob;
        Ok(json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size }))
    };
    let layer = |path: &String| descriptor(contents.file(path)?.layer_type, path);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &image.config)?,
        "layers": image.layers.iter().map(layer).collect::<Result<Vec<_>, Error>>()?,
    });
    Ok(manifest.to_string().into_bytes())
}

fn check_number(what: &str, images: usize) -> Result<(), Error> {
    if images <= INDEX_ENTRIES_MAX {
        return Ok(());
    }
    Err(Error::invalid(what, format!("{images} images are more than {INDEX_ENTRIES_MAX}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::intake::{Contents, File};
    use super::{Named, images};
    use crate::document::{Blob, LAYER_TYPES};
    use crate::platform::Platform;
    use crate::{Digest, Error};

    fn oci(manifests: &Value) -> Contents {
        Contents {
            layout: Some(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            index: Some(json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes()),
            ..Contents::default()
        }
    }

    fn entry(document: &str, annotations: &Value, platform: &Value) -> Value {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(document.as_bytes()).as_str(),
            "size": 1, "annotations": annotations, "platform": platform,
        })
    }

    fn read(contents: &Contents, name: Option<&str>) -> Result<Vec<Named>, Error> {
        images(contents, name, &[Platform::parse("freebsd/amd64").unwrap()])
    }

    fn names(contents: &Contents, name: Option<&str>) -> Vec<String> {
        let named = read(contents, name).unwrap();
        named.iter().map(|image| format!("{} {}", image.reference, &image.document.hex()[..4])).collect()
    }

    #[test]
    fn images_are_called_what_the_index_says() {
        let digits = |document: &str| Digest::of(document.as_bytes()).hex()[..4].to_owned();
        let (a, b) = (digits("a"), digits("b"));
        let none = Value::Null;
        let ref_name = |name: &str| json!({"org.opencontainers.image.ref.name": name});
        let both = json!({"io.containerd.image.name": "quay.io/x/y:2", "org.opencontainers.image.ref.name": "2"});
        let platform = |os: &str| json!({"os": os, "architecture": "amd64"});
        let freebsd = "freebsd-static:15.1-RELEASE-amd64";
        let table: [(Value, Option<&str>, Vec<String>); 7] = [
            (json!([entry("a", &ref_name(freebsd), &none)]), None, vec![format!("docker.io/library/{freebsd} {a}")]),
            (json!([entry("a", &both, &none), entry("b", &none, &none)]), None, vec![format!("quay.io/x/y:2 {a}")]),
            (
                json!([entry("a", &ref_name("x/y:1"), &none), entry("a", &ref_name("x/y:2"), &none)]),
                None,
                vec![format!("docker.io/x/y:1 {a}"), format!("docker.io/x/y:2 {a}")],
            ),
            (
                json!([entry("a", &ref_name("latest"), &none)]),
                Some("own:1"),
                vec![format!("docker.io/library/own:1 {a}")],
            ),
            (
                json!([entry("a", &both, &none), entry("a", &none, &none)]),
                Some("own:1"),
                vec![format!("docker.io/library/own:1 {a}")],
            ),
            (
                json!([
                    entry("a", &ref_name("x/y:1"), &platform("linux")),
                    entry("b", &ref_name("x/y:1"), &platform("freebsd"))
                ]),
                None,
                vec![format!("docker.io/x/y:1 {b}")],
            ),
            (
                json!([entry("a", &none, &platform("linux")), entry("b", &none, &platform("freebsd"))]),
                Some("own:1"),
                vec![format!("docker.io/library/own:1 {b}")],
            ),
        ];
        for (manifests, name, wanted) in table {
            assert_eq!(names(&oci(&manifests), name), wanted, "{manifests}");
        }
    }

    #[test]
    fn an_archive_without_a_usable_description_is_refused() {
        let none = Value::Null;
        let named = |name: &str| entry("a", &json!({"io.containerd.image.name": name}), &none);
        let other = format!("x@{}", Digest::of(b"b"));
        let old = Contents { layout: Some(br#"{"imageLayoutVersion":"0.9"}"#.to_vec()), ..oci(&json!([])) };
        let table = [
            (Contents::default(), None, "neither oci-layout"),
            (oci(&json!([])), None, "it has no image"),
            (oci(&json!([entry("a", &none, &none)])), None, "has no name: import it with --name"),
            (oci(&json!([named("Bad Name")])), None, "Bad Name"),
            (oci(&json!([named(&other)])), None, "the archive has sha256:"),
            (oci(&json!([named("a:1")])), Some("Bad"), "\"Bad\""),
            (oci(&json!([named("a:1"), entry("b", &none, &none)])), Some("c:1"), "the archive has 2"),
            (oci(&json!([named("a:1")])), Some(other.as_str()), "the archive has sha256:"),
            (old, None, "version \"0.9\""),
        ];
        for (contents, name, reason) in table {
            let error = read(&contents, name).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(reason), "{error}: {reason}");
        }
    }

    #[test]
    fn docker_s_images_get_a_manifest() {
        let file =
            |bytes: &[u8], layer_type| File { blob: Blob::new(Digest::of(bytes), bytes.len() as u64), layer_type };
        let contents = |docker: Value| {
            Contents { docker: Some(docker.to_string().into_bytes()), ..Contents::default() }
                .with_file("abc.json", file(b"config", LAYER_TYPES[0]))
                .with_file("l/layer.tar", file(b"layer", LAYER_TYPES[1]))
        };
        let image = json!({"Config": "abc.json", "RepoTags": ["a:1", "a:2"], "Layers": ["l/layer.tar"]});
        let named = read(&contents(json!([image])), None).unwrap();
        assert_eq!(named.len(), 2);
        let manifest: Value = serde_json::from_slice(named[0].manifest.as_ref().unwrap()).unwrap();
        assert_eq!(manifest["config"]["digest"], Digest::of(b"config").as_str());
        assert_eq!(manifest["layers"][0]["mediaType"], LAYER_TYPES[1]);
        assert_eq!(named[0].document, Digest::of(named[0].manifest.as_ref().unwrap()));
        let nameless = json!([{"Config": "abc.json", "RepoTags": null, "Layers": ["l/layer.tar"]}]);
        assert!(read(&contents(nameless.clone()), None).unwrap_err().to_string().contains("has no name"));
        assert_eq!(read(&contents(nameless), Some("b:1")).unwrap().len(), 1);
        let lacking = json!([{"Config": "abc.json", "RepoTags": ["a:1"], "Layers": ["m/layer.tar"]}]);
        assert!(read(&contents(lacking), None).unwrap_err().to_string().contains("\"m/layer.tar\""));
    }
}
