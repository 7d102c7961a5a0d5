//! CRI requests into specs. Every decision about a field of PodSandboxConfig and ContainerConfig is here, and only here: a
//! field is honoured, or refused with its name and value, or listed with a reason in docs/coverage.md. All of it is pure:
//! what the file system or the kernel must be asked for is asked by the backends.

pub(crate) mod answer;
mod container;
mod dns;
mod mounts;
mod network;
mod pod;
mod process;
mod refusal;
mod resources;
mod security;
mod signal;

pub(crate) use container::{Draft, Inputs, container, container_resources};
pub(crate) use pod::{Pod, pod, pod_resources};
