//! The backends of Linux: overlayfs besides copies.

use std::path::Path;
use std::sync::Arc;

use super::{Copy, Dataset, Kind, Overlay, Rootfs};
use crate::Error;

/// Opens a backend of this system.
pub(super) fn open(kind: Kind, directory: &Path, _dataset: Option<&Dataset>) -> Result<Arc<dyn Rootfs>, Error> {
    let overlay = directory.join("overlay");
    match kind {
        Kind::Overlay => Ok(Arc::new(Overlay::open(&overlay)?)),
        Kind::Auto if Overlay::works(&overlay) => Ok(Arc::new(Overlay::open(&overlay)?)),
        Kind::Auto | Kind::Copy => Ok(Arc::new(Copy::open(&directory.join("copy"))?)),
        Kind::Zfs => Err(Error::Unsupported { what: "the rootfs zfs".to_owned(), backend: "linux" }),
    }
}
