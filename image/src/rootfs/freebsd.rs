//! The backends of FreeBSD: ZFS besides copies.

use std::path::Path;
use std::sync::Arc;

use super::{Copy, Dataset, Kind, Rootfs, Zfs};
use crate::Error;

/// Opens a backend of this system.
pub(super) fn open(kind: Kind, directory: &Path, dataset: Option<&Dataset>) -> Result<Arc<dyn Rootfs>, Error> {
    match (kind, dataset) {
        (Kind::Auto | Kind::Zfs, Some(dataset)) => Ok(Arc::new(Zfs::open(&directory.join("zfs"), dataset)?)),
        (Kind::Auto | Kind::Copy, _) => Ok(Arc::new(Copy::open(&directory.join("copy"))?)),
        (Kind::Zfs, None) => Err(Error::invalid("zfs dataset", "none is configured")),
        (Kind::Overlay, _) => Err(Error::Unsupported { what: "the rootfs overlay".to_owned(), backend: "freebsd" }),
    }
}
