//! The one error of this crate: what a caller can act on.

/// Why a pod is not on the network as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such pod.
    #[error("{what} not found")]
    NotFound {
        /// Which: `interface of pod 4f1c…`.
        what: String,
    },
    /// A value cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as the caller names it.
        field: String,
        /// The value and what is wrong with it.
        reason: String,
    },
    /// Somebody else has it.
    #[error("{what}")]
    Conflict {
        /// What, and whose it is.
        what: String,
    },
    /// No address, no anchor, no descriptor is left; the same call may succeed later.
    #[error("{what}")]
    Exhausted {
        /// What, and how many there are.
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

impl Error {
    /// A [`Error::Failed`] for `map_err`: `.map_err(Error::failed("cannot create bridge cb0"))`.
    pub fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let operation = operation.into();
        move |source| Self::Failed { operation, source: source.into() }
    }
}
