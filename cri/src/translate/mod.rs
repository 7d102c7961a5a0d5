//! CRI requests into specs. Every decision about a field of PodSandboxConfig and ContainerConfig is here, and only here: a
//! field is honoured, or refused with its name and value, or listed with a reason in docs/coverage.md. All of it is pure:
//! what the file system or the kernel must be asked for is asked by the backends.

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

/// Why a request cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field has a value that cannot be: INVALID_ARGUMENT.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as CRI names it: `linux.security_context.run_as_user`.
        field: String,
        /// The value and what is wrong with it.
        reason: String,
    },
    /// A field asks for what Cellblock does not do: UNIMPLEMENTED would be the RPC, so this is FAILED_PRECONDITION.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The field, as CRI names it.
        field: String,
        /// What it asks for.
        reason: String,
    },
}

/// An [`Refusal::Invalid`].
fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    Refusal::Invalid { field: field.into(), reason: reason.into() }
}

/// An [`Refusal::Unsupported`].
fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    Refusal::Unsupported { field: field.into(), reason: reason.into() }
}

/// A field that must be there.
fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, Refusal> {
    value.ok_or_else(|| invalid(field, "missing"))
}

/// A number that the kernel has in 32 bits.
fn number<N: TryFrom<i64>>(field: &str, value: i64) -> Result<N, Refusal> {
    N::try_from(value).map_err(|_| invalid(field, format!("{value} is out of range")))
}
