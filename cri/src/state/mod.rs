//! The state of a running server: its records, in memory and on disk, and what its calls share.

pub(crate) mod clock;
pub(crate) mod find;
pub(crate) mod locks;
pub(crate) mod names;
pub(crate) mod needs;
pub(crate) mod node;
pub(crate) mod record;
pub(crate) mod samples;
pub(crate) mod spare_pool;
pub(crate) mod store;
pub(crate) mod subscribers;
