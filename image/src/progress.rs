//! How far a pull has come, layer by layer, for whoever shows it.

use std::fmt;
use std::sync::Arc;

use crate::Digest;

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn, or for another pull that downloads it.
    Waiting,
    /// Its bytes arrive; what has arrived is unpacked meanwhile.
    Downloading,
    /// It is stored whole, and its unpacking has not ended.
    Unpacking,
    /// It is unpacked, now or by an earlier pull.
    Complete,
}

/// The state of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The digest of its blob. An image may have the same layer twice: it is then reported as one.
    pub layer: Digest,
    /// What happens to it.
    pub phase: Phase,
    /// Bytes of the blob that are stored.
    pub done: u64,
    /// Bytes of the blob.
    pub total: u64,
}

/// Is told of each layer once the manifest is known, of each change of a phase, and now and then while bytes arrive. It is called on
/// threads of the pull and must not block.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl Observer {
    /// Calls this function.
    pub fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, layer: &Digest, phase: Phase, done: u64, total: u64) {
        if let Some(tell) = &self.0 {
            tell(Progress { layer: layer.clone(), phase, done, total });
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observer" } else { "Observer(nobody)" })
    }
}
