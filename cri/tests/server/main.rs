//! The real gRPC server, in process, on the fakes: what clients see of it, and that nothing is lost or left behind when
//! something fails or the server dies. No rights are needed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, its helpers too")]

mod admin;
mod authority;
mod commands;
mod exhausted;
mod faults;
mod image_commands;
mod images;
mod independent;
mod lifecycle;
mod lists;
mod network;
mod restart;
mod retries;
#[path = "../../../runtime/host/tests/support/small_disk.rs"]
mod small_disk;
mod statistics;
mod walk;
mod world;
