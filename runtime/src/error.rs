//! The one error of this crate, with the variants that a caller can act on.

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such pod or container.
    #[error("{what} not found")]
    NotFound {
        /// Which: `container 4f1c…`.
        what: String,
    },
    /// A field of the spec has an invalid value.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as the spec names it.
        field: String,
        /// The value and its fault.
        reason: String,
    },
    /// This backend does not support it; nothing was changed.
    #[error("{what} is not supported by the {backend} backend")]
    Unsupported {
        /// The feature or field.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The object's state does not allow it.
    #[error("{what}")]
    Conflict {
        /// The object and its state.
        what: String,
    },
    /// The program cannot be run in the container.
    #[error("cannot run {program:?}: {reason}")]
    Command {
        /// The program.
        program: String,
        /// The kernel's reason.
        reason: String,
        /// 127 for a program that does not exist, 126 for one that cannot be run, as shells count.
        exit_code: i32,
    },
    /// Something is exhausted or does not answer now; the same call may succeed later.
    #[error("{operation}")]
    Unavailable {
        /// The operation and its object.
        operation: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An error of the kernel or of a tool.
    #[error("{operation}")]
    Failed {
        /// The operation and its object.
        operation: String,
        /// The cause.
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

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// The kernel's error about a field's value: [`Error::Invalid`], but for what is used up (a full disk), which is no fault
    /// of the value.
    pub(crate) fn of_value(field: impl Into<String>, value: impl std::fmt::Display, error: std::io::Error) -> Self {
        if host::is_exhausted(&error) {
            return Self::Failed { operation: format!("{}: {value}", field.into()), source: error.into() };
        }
        Self::invalid(field, format!("{value}: {error}"))
    }

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

#[cfg(test)]
mod tests {
    use std::io;

    use super::Error;

    #[test]
    fn a_full_disk_is_no_fault_of_the_value_that_met_it() {
        let of = |errno: i32| Error::of_value("mounts.destination", "/data", io::Error::from_raw_os_error(errno));
        for errno in [libc::ENOSPC, libc::EDQUOT] {
            let error = of(errno);
            assert!(matches!(error, Error::Failed { .. }) && host::is_exhausted(&error), "{error:?}");
        }
        let error = of(libc::ENOTDIR);
        assert!(matches!(error, Error::Invalid { .. }) && !host::is_exhausted(&error), "{error:?}");
    }
}
