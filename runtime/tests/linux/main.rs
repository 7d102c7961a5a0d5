//! What only the Linux backend does, seen from inside its containers: namespaces, files, rights, limits, terminals, and what
//! becomes of a container whose monitor is killed. On another kernel there is nothing to test here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod containers;
#[path = "../ground/mod.rs"]
mod ground;
mod sessions;
#[path = "../ground/bench.rs"]
mod shared;
