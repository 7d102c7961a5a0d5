//! The one error of this crate: what a caller can act on.

/// Why an image or a root file system is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such image, layer or root.
    #[error("{what} not found")]
    NotFound {
        /// Which: `image "docker.io/library/busybox:latest"`.
        what: String,
    },
    /// A reference, a configuration or an image's own document cannot be understood.
    #[error("{what}: {reason}")]
    Invalid {
        /// What, by its name.
        what: String,
        /// The value and what is wrong with it.
        reason: String,
    },
    /// The registry does not let this client in.
    #[error("registry {registry} denied access to {reference}: {reason}")]
    Denied {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        reference: String,
        /// What it said, without any credential.
        reason: String,
    },
    /// Something does not answer or is full now; the same call may succeed later.
    #[error("{operation}")]
    Unavailable {
        /// What was being done.
        operation: String,
        /// Why it could not be.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image is used by something that must go first.
    #[error("{what}")]
    Conflict {
        /// What, and what uses it.
        what: String,
    },
    /// This backend cannot do it; nothing was changed.
    #[error("{what} is not supported by the {backend} backend")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The kernel, a tool or the registry said no.
    #[error("{operation}")]
    Failed {
        /// What was being done, and to what.
        operation: String,
        /// What it said.
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

    /// An error of the file system: [`Error::Unavailable`] when the disk or a table of the kernel is full, else
    /// [`Error::Failed`]. For `map_err`.
    pub fn io<E: Into<std::io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| {
            let source: std::io::Error = source.into();
            let full = [libc::ENOSPC, libc::EDQUOT, libc::ENFILE, libc::EMFILE, libc::ENOMEM, libc::EAGAIN];
            if source.raw_os_error().is_some_and(|number| full.contains(&number)) {
                Self::Unavailable { operation, source: source.into() }
            } else {
                Self::Failed { operation, source: source.into() }
            }
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
