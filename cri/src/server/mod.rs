//! The process and its sockets: what starts, serves and stops.

pub mod admin;
pub mod check;
pub mod connections;
pub mod daemon;
pub mod deliver;
pub mod directories;
pub mod serve;
pub mod service;
pub mod snapshots;
