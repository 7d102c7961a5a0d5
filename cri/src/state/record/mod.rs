//! The records of pods, containers and spares on disk. The client's request is kept in CRI's wire format, because clients see it
//! again; everything that the server acts on is in types of this repository.

mod disk;
mod wire;

use std::path::PathBuf;

use host::{ContainerId, PodId};
use network::{Attachment, NetworkSpec};
use proto::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use runtime::spec::{ContainerSpec, Identity, PodSpec, Signal};
use serde::{Deserialize, Serialize};

pub(crate) use disk::{Change, Disk, FormerAddresses, Loaded, Unreadable};
pub(crate) use wire::Wire;

/// The version of the records that this server writes, and the newest that it reads. 2: [`PodPhase::Failed`].
pub(crate) const VERSION: u32 = 2;

/// How far a pod has come. It only ever goes down this list.
///
/// ```text
///  RunPodSandbox
///       │
///       ▼      created
///   Creating ──────────► Ready
///       │                  │ Stop, Remove, or the kernel lost it
///       │ an error         ▼        torn down         Remove
///       └──────────────► Stopping ───────────► Stopped ─────► no record
///                          │
///                          │ the roll-back failed
///                          ▼        torn down
///                        Failed ────────────────────────────► no record
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodPhase {
    /// Its client has no answer yet; after a crash it is removed.
    Creating,
    /// It can hold running containers.
    Ready,
    /// The tear-down is under way or has failed, or the kernel has lost the pod.
    Stopping,
    /// Its creation failed, and so did the roll-back. The next request for its name, a Stop, a Remove or a restart tries the
    /// roll-back again. No client was given its id.
    Failed,
    /// The kernel holds nothing of it any more.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) id: PodId,
    pub(crate) phase: PodPhase,
    /// The time of the request, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) config: Wire<PodSandboxConfig>,
    /// The client's runtime handler; empty: the default.
    pub(crate) runtime_handler: String,
    pub(crate) spec: PodSpec,
    /// Its addresses belong to the pod until it is stopped.
    pub(crate) network: NetworkSpec,
    pub(crate) attachment: Option<Attachment>,
    /// The spare that it is being made from. The tear-down of the pod removes it too.
    pub(crate) spare: Option<PodId>,
    /// Why it is not ready, for a person; empty after a Stop.
    pub(crate) reason: String,
}

/// How far a container has come. It only ever goes down this list.
///
/// ```text
///  CreateContainer              ┌─ it cannot be started, or the kernel lost it ─┐
///       │                       │                                               ▼
///       ▼      created          │        Start               it ends
///   Creating ──────────────► Created ───────────► Running ─────────────────► Exited
///       │                       │                    │                          │
///       │ an error              │ Remove             │ Remove                   │ Remove
///       └───────────────────────┴──────────┬─────────┴──────────────────────────┘
///                                          ▼        removed
///                                      Removing ──────────────► no record
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContainerPhase {
    /// Its client has no answer yet; after a crash it is removed.
    Creating,
    /// It can be started.
    Created,
    /// Its first process runs.
    Running {
        /// Its process id on the host.
        pid: u32,
        /// In nanoseconds since 1970.
        started_at: i64,
    },
    /// It has ended, or its start has failed.
    Exited(Ended),
    /// The removal or roll-back is under way or has failed. Its status does not change.
    Removing(Option<Ended>),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// In nanoseconds since 1970; 0: it was never started.
    pub(crate) started_at: i64,
    /// In nanoseconds since 1970.
    pub(crate) finished_at: i64,
    pub(crate) code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `Unknown`.
    pub(crate) reason: String,
    /// Details for a person.
    pub(crate) message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) phase: ContainerPhase,
    /// The time of the request, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) config: Wire<ContainerConfig>,
    /// The image's id (`sha256:…`).
    pub(crate) image_id: String,
    pub(crate) log_path: Option<PathBuf>,
    /// None until the runtime has created it.
    pub(crate) made: Option<Made>,
    /// The resources of the request, with every update since.
    pub(crate) resources: Wire<LinuxContainerResources>,
}

/// A container as the runtime created it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) spec: ContainerSpec,
    pub(crate) identity: Identity,
    pub(crate) stop_signal: Signal,
}

#[cfg(test)]
mod tests;
