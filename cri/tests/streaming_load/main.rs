//! The streaming server under load; see load.rs.

#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

#[path = "../streaming/load.rs"]
mod load;
#[path = "../streaming/raw.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
mod raw;
#[path = "../streaming/scene.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
mod scene;
