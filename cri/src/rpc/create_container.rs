//! CreateContainer: the image is found, the name reserved, the record written, the root prepared, and only then is the
//! runtime asked; any error tears down what there is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::ContainerId;
use image::Image;
use proto::v1::{ContainerConfig, ContainerEventType, CreateContainerRequest, CreateContainerResponse};
use runtime::spec::ContainerSpec;
use tonic::Request;
use tracing::warn;

use super::extensions::delivery;
use crate::error::{Backend, Error};
use crate::lifecycle::events;
use crate::lifecycle::teardown;
use crate::state::clock::now;
use crate::state::names::{self, Claim, Claimed, Fingerprint, Ticket};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord, Made, PodPhase, PodRecord, Wire};
use crate::translate;

/// Makes the container, or answers with the one that this request has made already.
pub(crate) async fn call(
    node: &Arc<Node>,
    request: Request<CreateContainerRequest>,
) -> Result<CreateContainerResponse, Error> {
    let delivery = delivery(&request);
    let request = request.into_inner();
    let fingerprint = Fingerprint::of(&request);
    let config = request.config.ok_or_else(|| Error::missing("config"))?;
    let metadata = config.metadata.clone().ok_or_else(|| Error::missing("config.metadata"))?;
    let pod = node.store.find_pod(&request.pod_sandbox_id)?;
    let pod_metadata = pod.config.metadata.clone().unwrap_or_default();
    let id = node.store.new_container_id();
    let name = names::of_container(&metadata, &pod_metadata);
    let claim = Claim { what: "container", name: &name, id: id.as_str(), fingerprint, delivery: &delivery };
    let ticket = match reserve(node, &claim).await? {
        Claimed::Made(made) => return Ok(CreateContainerResponse { container_id: made }),
        Claimed::Free(ticket) => ticket,
    };
    let _lock = node.locks.container(&pod.id, &id).await;
    let wanted = Wanted { id: id.clone(), pod, config };
    node.block(move |node| make(node, wanted, ticket)).await?;
    Ok(CreateContainerResponse { container_id: id.to_string() })
}

struct Wanted {
    id: ContainerId,
    pod: Arc<PodRecord>,
    config: ContainerConfig,
}

/// Reserves the name. When it belongs to a container whose roll-back has not succeeded, that is tried once more first.
async fn reserve(node: &Arc<Node>, claim: &Claim<'_>) -> Result<Claimed, Error> {
    let reserved = match node.names.claim(claim).await {
        Err(Error::Reserved { owner, .. }) => owner,
        other => return other,
    };
    let failed = node.store.find_container(&reserved).ok().filter(|one| one.made.is_none());
    if let Some(failed) = failed {
        let _lock = node.locks.container(&failed.pod, &failed.id).await;
        node.block(move |node| teardown::container(node, &failed.id)).await?;
    }
    node.names.claim(claim).await
}

fn make(node: &Node, wanted: Wanted, ticket: Ticket) -> Result<(), Error> {
    let id = wanted.id.clone();
    match try_make(node, wanted) {
        Ok(record) => {
            ticket.made();
            events::publish_container(node, &record, ContainerEventType::ContainerCreatedEvent);
            Ok(())
        }
        Err(error) => {
            roll_back(node, &id, ticket);
            Err(error)
        }
    }
}

/// The first error is the one to report. A container that cannot be removed now stays, for its client to remove.
fn roll_back(node: &Node, id: &ContainerId, ticket: Ticket) {
    let Err(error) = teardown::container(node, id) else { return drop(ticket) };
    warn!(container = id.short(), "cannot roll back: {}", host::chain(&error));
    ticket.stuck();
    let (_, marked) = node.store.learn_container(id, |record| {
        if record.phase == ContainerPhase::Creating {
            record.phase = ContainerPhase::Removing(None);
        }
    });
    if let Err(error) = marked {
        warn!(container = id.short(), "cannot mark it: {}", host::chain(&error));
    }
}

fn try_make(node: &Node, wanted: Wanted) -> Result<Arc<ContainerRecord>, Error> {
    let Wanted { id, pod, config } = wanted;
    // The pod may have been stopped while this waited for its lock.
    let ready = node.store.pod(&pod.id).is_some_and(|pod| pod.phase == PodPhase::Ready);
    if !ready {
        return Err(Error::State { what: format!("sandbox {} is not ready", pod.id.short()) });
    }
    let image = image(node, &config)?;
    node.store.put_container(record(&id, &pod, &config, &image)?)?;
    let rootfs = node.images.prepare(&id, &image.id)?;
    let volumes = volumes(node, &id, &config)?;
    let made = translate::container(&translate::Inputs {
        id: &id,
        config: &config,
        pod_config: &pod.config,
        pod: &pod.spec,
        image: &image.config,
        rootfs: &rootfs,
        volumes: &volumes,
    })?;
    make_log_directory(&made.spec)?;
    let identity = node.runtime.create_container(&made.spec)?;
    let changed = node.store.change_container(&id, |record| {
        record.phase = ContainerPhase::Created;
        record.made = Some(Made { spec: made.spec, identity, stop_signal: made.stop_signal });
    })?;
    changed.ok_or_else(|| Error::State { what: format!("container {} was removed while it was made", id.short()) })
}

/// kubelet has made it; crictl has not, and CRI-O makes it too. It is the client's, and stays.
fn make_log_directory(spec: &ContainerSpec) -> Result<(), Error> {
    let Some(directory) = spec.log_path.as_deref().and_then(Path::parent) else { return Ok(()) };
    std::fs::create_dir_all(directory).map_err(|source| {
        let operation = format!("cannot make the log directory {}", directory.display());
        Error::Backend(Backend::Host { operation, source })
    })
}

fn image(node: &Node, config: &ContainerConfig) -> Result<Image, Error> {
    let name = config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::missing("config.image.image"));
    }
    node.images.find(name)?.ok_or_else(|| Error::NotFound { what: format!("image {name:?}") })
}

fn record(
    id: &ContainerId,
    pod: &PodRecord,
    config: &ContainerConfig,
    image: &Image,
) -> Result<ContainerRecord, Error> {
    let linux = config.linux.as_ref();
    let resources = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
    Ok(ContainerRecord {
        id: id.clone(),
        pod: pod.id.clone(),
        phase: ContainerPhase::Creating,
        created_at: now(),
        config: Wire(config.clone()),
        image_id: image.id.clone(),
        log_path: translate::log_path(&pod.config, config)?,
        made: None,
        resources: Wire(resources),
    })
}

/// The directories of the images that are mounted into the container.
fn volumes(node: &Node, id: &ContainerId, config: &ContainerConfig) -> Result<Vec<PathBuf>, Error> {
    let directory = |volume: translate::ImageVolume| {
        let missing = || Error::NotFound { what: format!("image {:?}", volume.image) };
        let image = node.images.find(&volume.image)?.ok_or_else(missing)?;
        Ok(node.images.volume(id, &image.id, &volume.sub_path)?)
    };
    translate::image_volumes(&config.mounts)?.into_iter().map(directory).collect()
}
