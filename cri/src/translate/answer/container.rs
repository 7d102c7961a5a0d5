//! Containers in CRI's types.

use proto::v1::{
    Container, ContainerAttributes, ContainerFilter, ContainerResources, ContainerState, ContainerStatus,
    ContainerUser, ImageSpec, LinuxContainerUser, Signal,
};

use super::selects;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord, Ended};

/// A container that is being removed keeps its state.
pub(crate) fn state(record: &ContainerRecord) -> ContainerState {
    match record.phase {
        ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Removing(None) => {
            ContainerState::ContainerCreated
        }
        ContainerPhase::Running { .. } => ContainerState::ContainerRunning,
        ContainerPhase::Exited(_) | ContainerPhase::Removing(Some(_)) => ContainerState::ContainerExited,
    }
}

pub(crate) fn item(record: &ContainerRecord) -> Container {
    Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.pod.to_string(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_ref: record.image_id.clone(),
        state: state(record).into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

/// Names the image as containerd does: by its first tag, and its reference by its first digest.
pub(crate) fn status(node: &Node, record: &ContainerRecord) -> ContainerStatus {
    // Without the image, the status repeats the request.
    let image = node.images.find(&record.image_id).ok().flatten();
    let tag = image.as_ref().and_then(|image| image.repo_tags.first());
    let spec = tag.map(|tag| ImageSpec { image: tag.clone(), ..ImageSpec::default() });
    let digest = image.as_ref().and_then(|image| image.repo_digests.first());
    let (started_at, ended) = times(record);
    ContainerStatus {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: state(record).into(),
        created_at: record.created_at,
        started_at,
        finished_at: ended.map_or(0, |ended| ended.finished_at),
        exit_code: ended.map_or(0, |ended| ended.code),
        image: spec.or_else(|| record.config.image.clone()),
        image_ref: digest.unwrap_or(&record.image_id).clone(),
        reason: ended.map(|ended| ended.reason.clone()).unwrap_or_default(),
        message: ended.map(|ended| ended.message.clone()).unwrap_or_default(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(ContainerResources { linux: Some(record.resources.0.clone()), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(user(record)),
        stop_signal: signal(record).into(),
    }
}

pub(crate) fn attributes(record: &ContainerRecord) -> ContainerAttributes {
    ContainerAttributes {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

/// Whether it passes a list's filter, whose ids are full ones.
pub(crate) fn passes(record: &ContainerRecord, filter: &ContainerFilter) -> bool {
    (filter.id.is_empty() || filter.id == record.id.as_str())
        && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == record.pod.as_str())
        && filter.state.is_none_or(|wanted| wanted.state == i32::from(state(record)))
        && selects(&filter.label_selector, &record.config.labels)
}

fn times(record: &ContainerRecord) -> (i64, Option<&Ended>) {
    match &record.phase {
        ContainerPhase::Running { started_at, .. } => (*started_at, None),
        ContainerPhase::Exited(ended) | ContainerPhase::Removing(Some(ended)) => (ended.started_at, Some(ended)),
        ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Removing(None) => (0, None),
    }
}

fn user(record: &ContainerRecord) -> ContainerUser {
    let linux = record.made.as_ref().map(|made| LinuxContainerUser {
        uid: made.identity.uid.into(),
        gid: made.identity.gid.into(),
        supplemental_groups: made.identity.groups.iter().map(|group| i64::from(*group)).collect(),
    });
    ContainerUser { linux }
}

fn signal(record: &ContainerRecord) -> Signal {
    let name = record.made.as_ref().map_or("TERM", |made| made.stop_signal.0.as_str());
    let name = format!("SIGNAL_SIG{}", name.replace('+', "PLUS").replace('-', "MINUS"));
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault)
}
