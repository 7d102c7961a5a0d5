//! CreateContainer: translate the request, so that a field is refused before anything exists; then reserve the name, write the
//! record, prepare the root, and ask the runtime. [`create()`] removes what there is after an error.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::ContainerId;
use image::Image;
use proto::v1::{ContainerConfig, ContainerEventType, CreateContainerRequest, CreateContainerResponse};
use runtime::spec::ContainerSpec;
use tonic::Request;

use super::extensions::delivery;
use crate::config::MissingHostPath;
use crate::error::{Backend, Error};
use crate::lifecycle::create::{Creation, Object, create};
use crate::lifecycle::events;
use crate::state::clock::now;
use crate::state::names::{self, Fingerprint};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord, Made, PodPhase, PodRecord, Wire};
use crate::translate::{self, Draft};

pub(crate) async fn call(
    node: &Arc<Node>,
    request: Request<CreateContainerRequest>,
) -> Result<CreateContainerResponse, Error> {
    let delivery = delivery(&request);
    let request = request.into_inner();
    let fingerprint = Fingerprint::of(&request);
    let mut config = request.config.ok_or_else(|| Error::missing("config"))?;
    let metadata = config.metadata.clone().ok_or_else(|| Error::missing("config.metadata"))?;
    let pod = node.store.find_pod(&request.pod_sandbox_id)?;
    if config.linux.is_none() {
        config.linux = translate::annotations::section(&metadata.name, &pod.config.annotations)?;
    }
    let name = names::of_container(&metadata, &pod.config.metadata.clone().unwrap_or_default());
    let wanted = Wanted::of(node, node.store.new_container_id(), pod, config)?;
    let object = Object::Container { id: wanted.id.clone(), pod: wanted.pod.id.clone() };
    let creation = Creation { object, name, fingerprint, delivery };
    let container_id = create(node, creation, move |node| make(node, wanted)).await?;
    Ok(CreateContainerResponse { container_id })
}

struct Wanted {
    id: ContainerId,
    pod: Arc<PodRecord>,
    config: ContainerConfig,
    image: Image,
    draft: Draft,
    /// The images that the draft mounts, in the order of its volumes.
    volumes: Vec<Image>,
}

impl Wanted {
    /// Decides about the whole request, before anything is made.
    fn of(node: &Node, id: ContainerId, pod: Arc<PodRecord>, mut config: ContainerConfig) -> Result<Self, Error> {
        let name = config.image.as_ref().map(|image| image.image.as_str()).filter(|name| !name.is_empty());
        let image = find_image(node, name.ok_or_else(|| Error::missing("config.image.image"))?)?;
        let draft = translate::container(&translate::Inputs {
            id: &id,
            config: &config,
            pod_config: &pod.config,
            pod: &pod.spec,
            image: &image.config,
            jail_parameters: &node.config.jail_parameters,
        })?;
        node.runtime.check_container(&draft.sketch())?;
        let volumes: Vec<Image> =
            draft.volumes.iter().map(|volume| find_image(node, &volume.image)).collect::<Result<_, _>>()?;
        for (volume, image) in draft.volumes.iter().zip(&volumes) {
            // kubelet reports it in the pod's status (KEP-5365).
            config.mounts[volume.index].image.get_or_insert_default().image_ref.clone_from(&image.id);
        }
        Ok(Self { id, pod, config, image, draft, volumes })
    }
}

fn find_image(node: &Node, name: &str) -> Result<Image, Error> {
    node.images.find(name)?.ok_or_else(|| Error::NotFound { what: format!("image {name:?}") })
}

fn make(node: &Node, wanted: Wanted) -> Result<(), Error> {
    let Wanted { id, pod, draft, volumes, .. } = &wanted;
    // The pod may have been stopped while this waited for its lock.
    if node.store.pod(&pod.id).is_none_or(|pod| pod.phase != PodPhase::Ready) {
        return Err(Error::State { what: format!("sandbox {} is not ready", pod.id.short()) });
    }
    node.store.put_container(record(&wanted))?;
    if node.config.missing_host_path == MissingHostPath::Create {
        wanted.config.mounts.iter().try_for_each(|mount| make_host_path(Path::new(&mount.host_path)))?;
    }
    let (rootfs, is_shared) = prepare_root(node, &wanted)?;
    let mounted = draft.volumes.iter().zip(volumes);
    let directories = mounted.map(|(volume, image)| node.images.volume(id, &image.id, &volume.sub_path));
    let declared = draft.declared.iter().map(|path| node.images.declared_volume(id, &rootfs, path));
    let (directories, declared) = (directories.collect::<Result<_, _>>()?, declared.collect::<Result<_, _>>()?);
    let mut spec = draft.complete(rootfs, directories, declared);
    spec.shared_rootfs = is_shared;
    make_log_directory(&spec)?;
    let identity = node.runtime.create_container(&spec)?;
    let created = node.store.change_container(id, |record| {
        record.phase = ContainerPhase::Created;
        record.made = Some(Made { spec, identity, stop_signal: draft.stop_signal.clone() });
    })?;
    let removed = || Error::State { what: format!("container {} was removed while it was made", id.short()) };
    events::publish_container(node, &*created.ok_or_else(removed)?, ContainerEventType::ContainerCreatedEvent);
    Ok(())
}

/// The container's root, and whether it is the unpacked image itself.
fn prepare_root(node: &Node, wanted: &Wanted) -> Result<(PathBuf, bool), Error> {
    let (name, annotations) = (names::own(wanted.config.metadata.as_ref()), &wanted.pod.config.annotations);
    let (id, image, sketch) = (&wanted.id, &wanted.image.id, wanted.draft.sketch());
    let imported = translate::storage::imported_root(name, annotations);
    if sketch.readonly_rootfs && imported.is_none() {
        // With a root of its own, the container is refused for the same error, or not at all.
        let fits = |directory: &Path| node.runtime.can_share(&sketch, directory).unwrap_or(false);
        if let Some(shared) = node.images.share(id, image, &fits)? {
            return Ok((shared, true));
        }
    }
    let rootfs = match imported {
        Some((key, imported)) => node.images.prepare_imported(id, imported).map_err(|error| match error {
            image::Error::NotFound { what } => Error::NotFound { what: format!("annotations[{key}]: {what}") },
            other => other.into(),
        })?,
        None => node.images.prepare(id, image)?,
    };
    if let Some(bytes) = translate::storage::refquota(name, annotations, node.config.refquota())? {
        node.images.limit(id, bytes)?;
    }
    Ok((rootfs, false))
}

/// Makes the directory of a mount whose host path is missing: the CRI's comment wants an error, but containerd and CRI-O make it,
/// and charts rely on that. It stays: nobody else knows whether it may go.
fn make_host_path(path: &Path) -> Result<(), Error> {
    // An image volume has none; any other trouble with a path is the backend's to report.
    if path.as_os_str().is_empty() || !matches!(path.metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
    {
        return Ok(());
    }
    tracing::info!("makes the missing host path {} of a mount", path.display());
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|source| {
        let operation = format!("cannot create the host path {} of a mount", path.display());
        Error::Backend(Backend::Host { operation, source })
    })
}

/// crictl does not make it, kubelet does. It belongs to the client and stays. CRI-O does the same.
fn make_log_directory(spec: &ContainerSpec) -> Result<(), Error> {
    let Some(directory) = spec.log_path.as_deref().and_then(Path::parent) else { return Ok(()) };
    std::fs::create_dir_all(directory).map_err(|source| {
        let operation = format!("cannot create the log directory {}", directory.display());
        Error::Backend(Backend::Host { operation, source })
    })
}

fn record(wanted: &Wanted) -> ContainerRecord {
    let resources = wanted.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    ContainerRecord {
        id: wanted.id.clone(),
        pod: wanted.pod.id.clone(),
        phase: ContainerPhase::Creating,
        created_at: now(),
        config: Wire(wanted.config.clone()),
        image_id: wanted.image.id.clone(),
        log_path: wanted.draft.log_path().map(Path::to_owned),
        made: None,
        resources: Wire(resources),
    }
}
