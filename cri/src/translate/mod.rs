//! CRI requests into specs, and records into answers. Every decision about a field of PodSandboxConfig and ContainerConfig is made
//! here and only here: the field is honoured, refused with its name and value, or listed with a reason in docs/coverage.md. All of it
//! is pure: the backends ask the file system and the kernel.

pub(crate) mod annotations;
pub(crate) mod answer;
mod container;
mod dns;
mod jail;
mod mounts;
pub(crate) mod network;
mod pod;
mod process;
mod refusal;
mod resources;
mod security;
mod signal;
pub(crate) mod storage;

pub(crate) use container::{Draft, Inputs, container, container_resources};
pub(crate) use dns::resolv_conf_of_gateways;
pub(crate) use pod::{Pod, pod, pod_resources};
