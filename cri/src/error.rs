//! The one error of this crate: what a client can act on. [`crate::status`] alone maps it to gRPC's codes.

use std::path::PathBuf;

/// Why a request was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{what} not found")]
    NotFound {
        /// Which.
        what: String,
    },
    /// A field of the request has a value that cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// The value and its fault.
        reason: String,
    },
    /// The name belongs to another object.
    #[error("failed to reserve {what} name {name:?}: name {name:?} is reserved for {owner:?}")]
    Reserved {
        /// `sandbox` or `container`.
        what: &'static str,
        /// The name, made of the metadata.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// The object is in a state in which this cannot be done.
    #[error("{what}")]
    State {
        /// The object, its state and the request.
        what: String,
    },
    /// It was not done in the time that the client gave.
    #[error("{what}: context deadline exceeded")]
    Deadline {
        /// The operation.
        what: String,
    },
    /// There is as much of it as there may be; the same call may succeed later, or a smaller one now.
    #[error("{what}")]
    Exhausted {
        /// What, and how much there may be.
        what: String,
    },
    /// A registry does not serve. kubelet tells its events by this first word (`evalCRIPullErr` in pkg/kubelet/images).
    #[error("RegistryUnavailable")]
    RegistryUnavailable(#[source] image::Error),
    /// This server does not do it.
    #[error("{what} is not supported")]
    Unsupported {
        /// The request.
        what: String,
    },
    /// The kernel, the network, a registry or the disk said no.
    #[error(transparent)]
    Backend(#[from] Backend),
    /// Several things went wrong in one tear-down.
    #[error("{operation}: {errors}")]
    Several {
        /// The operation.
        operation: String,
        /// The errors of its steps, in order, each of this type.
        errors: host::Several,
    },
}

/// An error of one of the crates below.
#[derive(Debug, thiserror::Error)]
pub enum Backend {
    /// Pods and containers.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// The pods' network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Images and root file systems.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// exec, attach and port-forward.
    #[error(transparent)]
    Streaming(#[from] streaming::Error),
    /// The records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The host itself.
    #[error("{operation}")]
    Host {
        /// The operation.
        operation: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
}

/// Why the records could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the records in {}", path.display())]
pub struct RecordError {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// A required field that is not there.
    pub fn missing(field: &str) -> Self {
        Self::Invalid { field: field.to_owned(), reason: "is missing".to_owned() }
    }

    /// Makes the errors of an operation's steps one.
    pub(crate) fn several(operation: String) -> impl FnOnce(host::Several) -> Self {
        |errors| Self::Several { operation, errors }
    }
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<network::Error> for Error {
    fn from(error: network::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<streaming::Error> for Error {
    fn from(error: streaming::Error) -> Self {
        Self::Backend(error.into())
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Backend(error.into())
    }
}
