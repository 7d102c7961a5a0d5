//! FreeBSD: every mount has its own device number, also nullfs.

pub(super) use super::enter_device as enter;
