//! What only the FreeBSD backend does, seen from inside its containers and from the host beside them: users, mounts that
//! cannot leave the root, terminals, limits, devices, and what becomes of what a killed server or monitor leaves behind. On
//! another kernel there is nothing to test here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
#[path = "../ground/mod.rs"]
mod ground;
mod limits;
mod memory;
mod mounts;
mod pods;
mod process;
#[path = "../ground/bench.rs"]
mod shared;
mod sys;
