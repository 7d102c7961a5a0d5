//! What runtime, network and image need of the host they run on: ids and the names computed from them, the place a pod
//! has, the one way to run an external program, the one way to start a worker process, atomic files, a file lock, and an
//! error printed with its causes. It knows nothing of pods beyond their names.

mod error;
pub mod fault;
pub mod fs;
mod id;
pub mod memory;
mod need;
mod place;
mod remove;
pub mod reserve;
pub mod run;
pub mod worker;

pub use error::{Exhausted, chain, is_exhausted};
pub use id::{ContainerId, IdError, PodId, Prefix};
pub use need::Need;
pub use place::Place;
