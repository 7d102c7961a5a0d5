//! FreeBSD's system calls that no crate wraps: each function is one call with Rust's types around it, and decides nothing.
//! Declarations that the libc crate lacks name their header.

pub(super) mod accounting;
pub(super) mod devfs;
pub(super) mod jail;
pub(super) mod memory;
pub(super) mod mount;
pub(super) mod process;
pub(super) mod sysctl;

use std::ffi::{CStr, CString};
use std::io;

/// A text for the kernel.
fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} has a NUL")))
}

unsafe extern "C" {
    /// modfind(2); the libc crate lacks it.
    fn modfind(name: *const libc::c_char) -> libc::c_int;
}

/// The id of a kernel module, also of one that is part of the kernel; a module that is loaded again has another.
pub(super) fn module_id(name: &CStr) -> Option<i32> {
    // SAFETY: the name ends with NUL and lives for the call.
    let id = unsafe { modfind(name.as_ptr()) };
    (id >= 0).then_some(id)
}

/// The result of a call that answers -1 for an error.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
