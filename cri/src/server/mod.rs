//! The process and its sockets: what starts, serves and stops.

pub(crate) mod admin;
pub(crate) mod authority;
pub(crate) mod check;
pub(crate) mod connections;
pub(crate) mod daemon;
pub(crate) mod deliver;
pub(crate) mod directories;
pub(crate) mod locks;
pub(crate) mod serve;
pub(crate) mod service;
