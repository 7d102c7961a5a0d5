//! The error of this crate, by what a caller can act on.

/// Why an operation on the network failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not exist.
    #[error("{what} not found")]
    NotFound {
        /// The object: `interface of pod 4f1c…`.
        what: String,
    },
    /// A value is invalid.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as the caller names it.
        field: String,
        /// The value and what is wrong with it.
        reason: String,
    },
    /// Another owner has the resource.
    #[error("{what}")]
    Conflict {
        /// The resource and its owner.
        what: String,
    },
    /// No address, anchor or descriptor is left; the same call may succeed later.
    #[error("{what}")]
    Exhausted {
        /// The resource and its limit.
        what: String,
    },
    /// The backend does not support the request; nothing was changed.
    #[error("{what} is not supported by the {backend} backend")]
    Unsupported {
        /// The request.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The kernel or a tool refused.
    #[error("{operation}")]
    Failed {
        /// The operation and its object.
        operation: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Makes an [`Error::Failed`] for `map_err`: `.map_err(Error::failed("cannot create bridge cb0"))`.
    pub fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::Failed { operation, source: source.into() }
    }
}

impl From<host::fs::FileError> for Error {
    fn from(error: host::fs::FileError) -> Self {
        Self::failed(error.operation)(error.source)
    }
}
