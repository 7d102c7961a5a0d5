//! One thing that a backend needs of the node, and whether it holds: what `cellblock check` prints and what Status turns
//! into RuntimeReady and NetworkReady.

/// One need of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What is needed, in a few words: `forwarding`, `program runc`.
    pub name: String,
    /// What was found.
    pub found: String,
    /// Nothing works without it: the backend is not ready while it does not hold.
    pub required: bool,
    /// None when it holds; else what to do, with the exact line or command.
    pub remedy: Option<String>,
}

impl Need {
    /// Whether the need holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.remedy.is_none()
    }
}
