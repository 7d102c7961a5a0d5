//! The one error of this crate: what a caller can act on.

/// Why the kernel's pods and containers are not as they were asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such pod or container.
    #[error("{what} not found")]
    NotFound {
        /// Which: `container 4f1c…`.
        what: String,
    },
    /// A field of the spec has a value that cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as the spec names it.
        field: String,
        /// The value and what is wrong with it.
        reason: String,
    },
    /// This backend cannot do it; nothing was changed.
    #[error("{what} is not supported by the {backend} backend")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The object is in a state in which this cannot be done.
    #[error("{what}")]
    Conflict {
        /// The object, its state, and what was asked.
        what: String,
    },
    /// The program cannot be run in the container.
    #[error("cannot run {program:?}: {reason}")]
    Command {
        /// The program.
        program: String,
        /// What the kernel said.
        reason: String,
        /// 127 for one that is not there, 126 for one that cannot be run, as shells count.
        exit_code: i32,
    },
    /// Something is exhausted or does not answer now; the same call may succeed later.
    #[error("{operation}")]
    Unavailable {
        /// What was being done.
        operation: String,
        /// Why it could not be.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel or a tool said no.
    #[error("{operation}")]
    Failed {
        /// What was being done, and to what.
        operation: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<host::fs::FileError> for Error {
    fn from(error: host::fs::FileError) -> Self {
        Self::Failed { operation: error.operation, source: error.source }
    }
}

impl Error {
    /// A [`Error::NotFound`].
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// A [`Error::Invalid`].
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// A [`Error::Conflict`].
    pub(crate) fn conflict(what: impl Into<String>) -> Self {
        Self::Conflict { what: what.into() }
    }

    /// A [`Error::Failed`] for `map_err`: `.map_err(Error::failed("cannot mount /proc"))`.
    pub fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::Failed { operation, source: source.into() }
    }
}
