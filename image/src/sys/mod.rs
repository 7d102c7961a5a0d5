//! The system calls that nix does not wrap: extended attributes by descriptor, and the confinement of the unpacking worker. All
//! unsafe code of the crate is here and in the loading of libzfs_core.

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::{
    boot, close_from, confine, limit_memory, make_device, open_detached, remove_acl, set_xattr, sync, xattrs,
};
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    boot, close_from, confine, limit_memory, make_device, open_detached, remove_acl, set_xattr, sync, xattrs,
};

/// Whether a failed look-up of a host's name may succeed later, by the text of getaddrinfo(3): the name server does not answer.
pub(crate) fn lookup_may_succeed(text: &str) -> bool {
    // SAFETY: takes a number.
    let again = unsafe { libc::gai_strerror(libc::EAI_AGAIN) };
    // SAFETY: it is a constant text that ends in NUL.
    let again = unsafe { std::ffi::CStr::from_ptr(again) };
    text.contains(&*again.to_string_lossy())
}
