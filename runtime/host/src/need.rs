//! The needs of a backend, which `cellblock check` prints and Status turns into RuntimeReady and NetworkReady.

/// One need of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name: `forwarding`, `program runc`.
    pub name: String,
    /// What the node has.
    pub found: String,
    /// Whether the backend is not ready without it.
    pub required: bool,
    /// The exact line or command that meets it; None: it is met.
    pub remedy: Option<String>,
}

impl Need {
    /// Whether it is met.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.remedy.is_none()
    }
}
