//! FreeBSD: every mount has a device number of its own, nullfs too.

pub(super) use super::enter_device as enter;
