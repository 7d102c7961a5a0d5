//! What is kept on disk of pods, containers and spares: types of our own, each value with its version, one transaction per
//! change. The request that made a pod or a container is kept as the client sent it, in CRI's own wire format, because it
//! is shown back to clients; everything that the server acts on stands beside it in types that this repository owns.

mod disk;
mod wire;

use std::path::PathBuf;

use host::{ContainerId, PodId};
use network::{Attachment, NetworkSpec};
use proto::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use runtime::spec::{ContainerSpec, Identity, PodSpec, Signal};
use serde::{Deserialize, Serialize};

pub(crate) use disk::{Change, Disk, Loaded, Unreadable};
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
    /// Being made: its client has no answer yet, and after a crash it is removed.
    Creating,
    /// It can hold running containers.
    Ready,
    /// Being torn down; also: a tear-down that did not succeed yet, and a pod that the kernel has lost.
    Stopping,
    /// It could not be created, and removing what there is of it has failed: the next request for its name, a Stop, a Remove or
    /// a restart tries again. Its client knows no id of it.
    Failed,
    /// The kernel holds nothing of it any more.
    Stopped,
}

/// A pod on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// Its id.
    pub(crate) id: PodId,
    /// How far it has come.
    pub(crate) phase: PodPhase,
    /// When it was asked for, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// What was asked for, as it was asked.
    pub(crate) config: Wire<PodSandboxConfig>,
    /// The runtime handler that the client named; empty: the default.
    pub(crate) runtime_handler: String,
    /// What was asked of the runtime.
    pub(crate) spec: PodSpec,
    /// What was asked of the network: its addresses belong to the pod until it is stopped.
    pub(crate) network: NetworkSpec,
    /// What the network gave.
    pub(crate) attachment: Option<Attachment>,
    /// The spare that it was being made from: what is left of that one goes with it.
    pub(crate) spare: Option<PodId>,
    /// Why it is not ready, for a person; empty when it was stopped on request.
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
    /// Being made: its client has no answer yet, and after a crash it is removed.
    Creating,
    /// It can be started.
    Created,
    /// Its first process runs.
    Running {
        /// The host's number of that process.
        pid: u32,
        /// When it was started, in nanoseconds since 1970.
        started_at: i64,
    },
    /// It has ended, or could not be started.
    Exited(Ended),
    /// Being removed; also: a removal or a roll-back that did not succeed yet. It answers as it did before.
    Removing(Option<Ended>),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// When it was started, in nanoseconds since 1970; 0: never.
    pub(crate) started_at: i64,
    /// When it ended, in nanoseconds since 1970.
    pub(crate) finished_at: i64,
    /// Its exit code.
    pub(crate) code: i32,
    /// CRI's word for it: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub(crate) reason: String,
    /// More for a person.
    pub(crate) message: String,
}

/// A container on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its id.
    pub(crate) id: ContainerId,
    /// The pod it runs in.
    pub(crate) pod: PodId,
    /// How far it has come.
    pub(crate) phase: ContainerPhase,
    /// When it was asked for, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// What was asked for, as it was asked.
    pub(crate) config: Wire<ContainerConfig>,
    /// The image's id (`sha256:…`).
    pub(crate) image_id: String,
    /// The file of its log.
    pub(crate) log_path: Option<PathBuf>,
    /// What the runtime made; None until then.
    pub(crate) made: Option<Made>,
    /// What it may use now: as it was asked, and as it was updated since.
    pub(crate) resources: Wire<LinuxContainerResources>,
}

/// A container as the runtime made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// What was asked of the runtime.
    pub(crate) spec: ContainerSpec,
    /// Who it runs as.
    pub(crate) identity: Identity,
    /// What it is stopped with.
    pub(crate) stop_signal: Signal,
}

#[cfg(test)]
mod tests;
