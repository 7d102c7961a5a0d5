//! The system calls that nix does not wrap: extended attributes by descriptor, and the confinement of the unpacking worker. All
//! unsafe code of the crate is here and in the loading of libzfs_core.

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::{close_from, confine, limit_memory, make_device, set_xattr, sync, xattrs};
#[cfg(target_os = "linux")]
pub(crate) use linux::{close_from, confine, limit_memory, make_device, set_xattr, sync, xattrs};
