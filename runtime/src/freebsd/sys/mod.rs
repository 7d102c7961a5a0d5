//! FreeBSD's system calls that no crate wraps: each function is one call with Rust's types around it, and decides nothing.
//! Declarations that the libc crate lacks name their header.

pub(super) mod accounting;
pub(super) mod devfs;
pub(super) mod jail;
pub(super) mod memory;
pub(super) mod mount;
pub(super) mod process;
pub(super) mod sysctl;

use std::ffi::CString;
use std::io;

/// A text for the kernel.
fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} has a NUL")))
}

/// The result of a call that answers -1 for an error.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
