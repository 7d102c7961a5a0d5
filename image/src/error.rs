//! The one error of this crate: what a caller can act on.

use std::path::Path;

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image, layer or root does not exist.
    #[error("{what} not found")]
    NotFound {
        /// Its name: `image "docker.io/library/busybox:latest"`.
        what: String,
    },
    /// A reference, a configuration or a document of an image is invalid.
    #[error("{what}: {reason}")]
    Invalid {
        /// Its name.
        what: String,
        /// The value and its fault.
        reason: String,
    },
    /// The registry denied access.
    #[error("registry {registry} denied access to {reference}: {reason}")]
    Denied {
        /// The registry's host.
        registry: String,
        /// The requested image.
        reference: String,
        /// Its reason, without secrets.
        reason: String,
    },
    /// A registry does not respond, or the disk is full: a retry may succeed.
    #[error("{operation}")]
    Unavailable {
        /// The operation.
        operation: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is in use.
    #[error("{what}")]
    Conflict {
        /// The thing and its user.
        what: String,
    },
    /// This backend cannot do it; it changed nothing.
    #[error("{what} is not supported by the {backend} backend")]
    Unsupported {
        /// The requested feature.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The kernel, a tool or the registry failed.
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
    /// A [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// A [`Error::NotFound`].
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// A [`Error::Unavailable`] for `map_err`.
    pub fn unavailable<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::Unavailable { operation, source: source.into() }
    }

    /// An error of the file system, for `map_err`: [`Error::Unavailable`] if a resource is exhausted, else [`Error::Failed`].
    pub fn io<E: Into<std::io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| {
            let source: std::io::Error = source.into();
            if host::is_exhausted(&source) {
                Self::Unavailable { operation, source: source.into() }
            } else {
                Self::Failed { operation, source: source.into() }
            }
        }
    }

    /// For a stored file that is not what its reader expects.
    pub(crate) fn unreadable(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |error| {
            Self::invalid(path.display().to_string(), format!("cannot be parsed and is left unchanged: {error}"))
        }
    }

    /// For an error of [`host::json::read`].
    pub(crate) fn of_file(path: &Path) -> impl FnOnce(host::fs::FileError) -> Self {
        move |error| match error.source.downcast::<serde_json::Error>() {
            Ok(source) => Self::unreadable(path)(*source),
            Err(source) => match source.downcast::<std::io::Error>() {
                Ok(source) => Self::io(error.operation)(*source),
                Err(source) => Self::failed(error.operation)(source),
            },
        }
    }

    /// A [`Error::Failed`] for `map_err`.
    pub fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::Failed { operation, source: source.into() }
    }
}
