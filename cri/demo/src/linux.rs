//! Linux: the server's own nftables rules and its forwarding are all that the demo needs.

/// Changes nothing.
#[derive(Debug)]
pub(crate) struct Filter;

impl Filter {
    /// No changes yet.
    pub(crate) fn new() -> Self {
        Self
    }

    /// Changes nothing.
    pub(crate) fn install(&mut self) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Changes nothing.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        Ok(())
    }
}
