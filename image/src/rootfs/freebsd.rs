//! The backends of FreeBSD: ZFS besides copies.

use std::path::Path;
use std::sync::Arc;

use super::{Copy, Kind, Rootfs};
use crate::Error;

/// Opens one of them.
pub(super) fn open(kind: Kind, directory: &Path, _dataset: Option<&str>) -> Result<Arc<dyn Rootfs>, Error> {
    match kind {
        Kind::Auto | Kind::Copy => Ok(Arc::new(Copy::open(&directory.join("copy"))?)),
        Kind::Zfs => Err(Error::Unsupported { what: "the rootfs zfs".to_owned(), backend: "freebsd" }),
        Kind::Overlay => Err(Error::Unsupported { what: "the rootfs overlay".to_owned(), backend: "freebsd" }),
    }
}
