//! sysctl(3) by name.

use std::ffi::CString;
use std::io;
use std::ptr::{null, null_mut};

use super::{c_string, checked};

/// The limit on a value, in bytes.
const VALUE_LIMIT: usize = 4096;

/// A value as its bytes.
pub(in crate::freebsd) fn get(name: &str) -> io::Result<Vec<u8>> {
    let name = c_string(name)?;
    let mut value = vec![0u8; VALUE_LIMIT];
    let mut length = value.len();
    // SAFETY: the name ends in a NUL, and `value` has the `length` bytes that the kernel may write.
    let result = unsafe { libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &raw mut length, null(), 0) };
    checked(result)?;
    value.truncate(length);
    Ok(value)
}

/// A number of four or eight bytes, or a boolean of one.
pub(in crate::freebsd) fn number(name: &str) -> io::Result<u64> {
    let value = get(name)?;
    match value.as_slice() {
        [byte] => Ok(u64::from(*byte)),
        [a, b, c, d] => Ok(u64::from(u32::from_ne_bytes([*a, *b, *c, *d]))),
        other => other
            .try_into()
            .map(u64::from_ne_bytes)
            .map_err(|_| io::Error::other(format!("{name} is no number of 1, 4 or 8 bytes"))),
    }
}

/// A text.
pub(in crate::freebsd) fn text(name: &str) -> io::Result<String> {
    let value = get(name)?;
    Ok(String::from_utf8_lossy(&value).trim_end_matches('\0').to_owned())
}

/// Whether a name exists: security.jail.param has the parameters of the kernel. The parent of others (`allow.mount`) is a name
/// too, without a value.
pub(in crate::freebsd) fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    let mut numbers = [0; libc::CTL_MAXNAME as usize];
    let mut length = numbers.len();
    // SAFETY: the name ends in a NUL, and `numbers` has the `length` numbers that may be written.
    let result = unsafe { libc::sysctlnametomib(name.as_ptr(), numbers.as_mut_ptr(), &raw mut length) };
    result == 0
}

/// Sets a value, given as its bytes.
pub(in crate::freebsd) fn set(name: &str, value: &[u8]) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: the name ends in a NUL, and the kernel reads only the bytes of `value`.
    let result =
        unsafe { libc::sysctlbyname(name.as_ptr(), null_mut(), null_mut(), value.as_ptr().cast(), value.len()) };
    checked(result).map(drop)
}
