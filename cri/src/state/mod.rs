//! What a running server knows: its records, in memory and on disk, and what its calls share.

pub mod locks;
pub mod names;
pub mod node;
pub mod record;
pub mod samples;
pub mod store;
