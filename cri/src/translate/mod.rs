//! CRI requests into specs. Every decision about a field of PodSandboxConfig and ContainerConfig is here, and only here: a
//! field is honoured, or refused with its name and value, or listed with a reason in docs/coverage.md. All of it is pure:
//! what the file system or the kernel must be asked for is asked by the backends.

pub mod answer;
mod container;
mod dns;
mod mounts;
mod network;
mod pod;
mod process;
mod resources;
mod security;
mod signal;

pub use container::{Container, Inputs, container, container_resources, log_path};
pub use mounts::{ImageVolume, image_volumes};
pub use network::{ADDRESS_ANNOTATION, NetworkWish, ROUTE_ANNOTATION};
pub use pod::{Pod, pod, pod_resources};

/// The longest name, uid or namespace, in bytes: four times what Kubernetes allows. They make the name that is reserved.
const NAME_LENGTH: usize = 1024;
/// All labels or all annotations of one object, in bytes: four times what Kubernetes allows (256 KiB). Each is kept in memory and
/// in every list.
const LABELS_SIZE: usize = 1 << 20;

/// A word of an object's name: not empty, and not longer than a name can be.
fn name(field: &str, value: &str) -> Result<(), Refusal> {
    match value.len() {
        0 => Err(invalid(field, "empty")),
        length if length > NAME_LENGTH => Err(invalid(field, format!("has {length} bytes, at most {NAME_LENGTH}"))),
        _ => Ok(()),
    }
}

/// Labels or annotations, together not larger than any can be.
fn labels(field: &str, map: &std::collections::BTreeMap<String, String>) -> Result<(), Refusal> {
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > LABELS_SIZE {
        return Err(invalid(field, format!("have {size} bytes together, at most {LABELS_SIZE}")));
    }
    Ok(())
}

/// A field with a value that cannot be, or that asks for what Cellblock does not do. INVALID_ARGUMENT both: UNIMPLEMENTED would be
/// the whole RPC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// The field, as CRI names it: `linux.security_context.run_as_user`.
    pub field: String,
    /// The value and what is wrong with it.
    pub reason: String,
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    Refusal { field: field.into(), reason: reason.into() }
}

/// A field that must be there.
fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, Refusal> {
    value.ok_or_else(|| invalid(field, "missing"))
}

/// A number that the kernel has in 32 bits.
fn number<N: TryFrom<i64>>(field: &str, value: i64) -> Result<N, Refusal> {
    N::try_from(value).map_err(|_| invalid(field, format!("{value} is out of range")))
}
