//! The FreeBSD backend: bridge, epair and pf.

use std::sync::Arc;

use crate::{Error, Network, Settings};

/// Opens the backend.
pub(crate) fn open(_settings: Settings) -> Result<Arc<dyn Network>, Error> {
    Err(Error::Unsupported { what: "the network".to_owned(), backend: "freebsd" })
}
